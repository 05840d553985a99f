"""What a configuration is: reading, schema and the rules of its options."""
