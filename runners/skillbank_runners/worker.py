"""One job, one process: ``python -m skillbank_runners.worker JOB_FOLDER``."""

import sys

from skillbank_runners.lifecycle import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
