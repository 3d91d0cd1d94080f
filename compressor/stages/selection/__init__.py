"""The stages that look at the full model and decide what goes: scores, timing, plan, audit."""
