"""Methods of the image builder over the image of a registry; the argument, in JSON, says which.

`name` is the image, `secret` what opens its registry, `work` the user's files, `methods` those to
build by. With a `proof`, a command that succeeds in all images, each of them is looked into as
well. Prints what came of each.
"""

import json
import sys
from pathlib import Path

import modal

from image_methods import look_into, methods


def main() -> None:
    """Does it."""
    told = json.loads(sys.argv[1])
    secret = modal.Secret.from_dict(told["secret"]) if told["secret"] else None
    made = methods(modal, Path(told["work"]), told["name"], secret)
    made = {name: made[name] for name in told["methods"]}
    if told["proof"]:
        done = look_into(modal, made, told["proof"])
    else:
        app = modal.App("builds")
        with app.run():
            done = {name: make()[0].build(app).object_id for name, make in made.items()}
    print("done", json.dumps(done))


if __name__ == "__main__":
    main()
