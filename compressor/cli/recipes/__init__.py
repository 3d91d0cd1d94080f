"""Commands that take a recipe: run, validate, plan, score, audit, finetune."""
