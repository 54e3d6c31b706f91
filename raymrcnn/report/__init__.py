"""One self-contained HTML page about a run or its predictions."""
