"""When it happens: Prefect flows over DVC's graph."""
