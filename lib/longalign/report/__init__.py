"""Claims, verdicts, tables, figures, and the pages that commands write."""
