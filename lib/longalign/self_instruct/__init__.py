"""Long instruction data from documents, as the paper builds LongAlign-10k (arXiv 2401.18058): Self-Instruct."""
