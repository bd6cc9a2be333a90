"""Models behind OpenAI-compatible servers, asked side by side: what was paid for is kept, and nothing is paid twice."""
