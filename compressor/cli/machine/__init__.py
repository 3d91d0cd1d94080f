"""Commands about the machine and the recipes it takes: doctor, schema."""
