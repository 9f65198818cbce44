"""The commands of `splitbed` that orchestrate: one module each, with `main(argv) -> exit code`."""
