"""The pure half of pgchorus: SQL text, catalog and parameters in, plan out."""
