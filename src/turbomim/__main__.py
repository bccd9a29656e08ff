"""`python -m turbomim …`, so that `torchrun -m turbomim pretrain …` works."""

from turbomim.train.commands.cli import main

if __name__ == "__main__":
    main()
