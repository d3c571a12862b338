// Runs a WebAssembly program under Node: node tests/wasi.mjs PROGRAM [ARGUMENT...]
import { readFile } from "node:fs/promises";
import { WASI } from "node:wasi";

const args = process.argv.slice(2);
const wasi = new WASI({ version: "preview1", args, env: process.env, preopens: { "/": "/" } });
const module = await WebAssembly.compile(await readFile(args[0]));
// A standard library and a C library of different years may not agree on what there is of threads, which nobody starts.
const env = {};
for (const { module: from, name } of WebAssembly.Module.imports(module)) {
    if (from === "env") {
        env[name] = () => {
            throw new Error(`${name} was called`);
        };
    }
}
process.exitCode = wasi.start(await WebAssembly.instantiate(module, { ...wasi.getImportObject(), env }));
