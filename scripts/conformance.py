"""Every test that docs/conformance.md names exists, and every row that is done names one. Run from the root of the repository."""

import re
import subprocess
import sys

ROW = re.compile(r"^\| ((?:NEG|REG|XCH|MSRP|MED|MOB|SEC|OBS)-\d+) \| .* \| (done|not done) \| .* \| (.*) \|$")


def main() -> int:
    files = subprocess.run(["git", "ls-files", "*.rs"], capture_output=True, text=True, check=True).stdout.split()
    known = set()
    for file in files:
        with open(file, encoding="utf-8") as source:
            known.update(re.findall(r"\bfn ([a-z0-9_]+)\s*[(<]", source.read()))
    problems, rows, done = [], 0, 0
    with open("docs/conformance.md", encoding="utf-8") as table:
        for line in table:
            for name in re.findall(r"`((?:neg|reg|xch|msrp|med|mob|sec|obs)_[a-z0-9_]+)`", line):
                if name not in known:
                    problems.append(f"{name}: no such test")
            row = ROW.match(line.strip())
            if row:
                rows += 1
                done += row[2] == "done"
                if row[2] == "done" and "`" not in row[3]:
                    problems.append(f"{row[1]}: done, and no test is named")
    for problem in problems:
        print(f"conformance: {problem}", file=sys.stderr)
    if not problems:
        print(f"conformance: {done} of {rows} requirements done")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
