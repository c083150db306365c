"""``python -m benchmarks.paper`` is the paper's table: see ``benchmarks.paper.comparison``."""

from benchmarks.paper.comparison import main

if __name__ == "__main__":
    main()
