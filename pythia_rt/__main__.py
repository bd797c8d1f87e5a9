"""`python -m pythia_rt` is the same as the command `pythia-rt`."""

from pythia_rt.cli import main

if __name__ == "__main__":
    main(prog_name="pythia-rt")
