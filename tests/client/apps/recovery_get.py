"""A process of its own that takes the results of calls by their ids."""

import json
import sys

import modal


def main(path: str) -> None:
    """Prints a JSON list: what each call gave."""
    with open(path) as file:
        ids = json.load(file)
    results = modal.FunctionCall.gather(*[modal.FunctionCall.from_id(one) for one in ids])
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
