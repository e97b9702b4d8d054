"""Untrusted code in a restricted function: no access to the server, no network, one use.

    modal run examples/restricted.py
"""

import modal

app = modal.App("restricted-example")

# What a language model may have written. It leaves its answer in `result`.
LLM_CODE = """
def fibonacci(n):
    a, b = 0, 1
    for _ in range(n):
        a, b = b, a + b
    return a

result = fibonacci(10)
"""

# Run in the same way: what code in such a container sees of the machine.
LOOK_AROUND = """
import os

def lines(path, *beginnings):
    with open(path) as file:
        return [line.rstrip() for line in file if line.startswith(beginnings)]

result = {
    "uid_map": [" ".join(line.split()) for line in lines("/proc/self/uid_map", "")],
    "pid": [str(os.getpid())],
    "processes": [pid for pid in os.listdir("/proc") if pid.isdigit()],
    "interfaces": os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else
        [line.split(":")[0].strip() for line in open("/proc/net/dev") if ":" in line],
    "status": lines("/proc/self/status", "Cap", "NoNewPrivs", "Seccomp:"),
}
"""


@app.function(restrict_modal_access=True, max_inputs=1, timeout=30, block_network=True)
def run_llm_code(code: str):
    """Runs the code and returns what it calls `result`."""
    namespace = {}
    exec(code, namespace)
    return namespace["result"]


@app.local_entrypoint()
def main():
    """Runs both programs and prints what they return."""
    print("Result:", run_llm_code.remote(LLM_CODE))
    print("What the container saw:")
    for name, values in run_llm_code.remote(LOOK_AROUND).items():
        for value in values:
            print(f"  {name}: {value}")
