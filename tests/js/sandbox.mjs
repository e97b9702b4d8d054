// One part of what the official JavaScript client does with sandboxes; its name is the argument.
// PALISADE_JS is the folder that has the client in node_modules. Ends with 0, or says what failed.

import assert from "node:assert/strict";
import { createHash, randomBytes, randomUUID } from "node:crypto";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { tmpdir } from "node:os";
import { join } from "node:path";

const require = createRequire(join(process.env.PALISADE_JS, "/"));
const client = require("modal");
const modal = new client.ModalClient();

const IMAGE = "python:3.11-slim-bookworm";
const MIB = 1 << 20;

const app = await modal.apps.fromName("js-tests", { createIfMissing: true });

/** Creates a sandbox, and terminates it whatever `use` does with it. */
async function withSandbox(use, params = {}, image = modal.images.fromRegistry(IMAGE)) {
  const sandbox = await modal.sandboxes.create(app, image, { timeoutMs: 300_000, ...params });
  try {
    return await use(sandbox);
  } finally {
    await sandbox.terminate();
  }
}

/** Runs a command to its end. */
async function run(sandbox, command, params) {
  const process = await sandbox.exec(command, params);
  const [stdout, stderr] = await Promise.all([
    process.stdout.readText(),
    process.stderr.readText(),
  ]);
  return { stdout, stderr, code: await process.wait() };
}

const sha256 = (bytes) => createHash("sha256").update(bytes).digest("hex");

const parts = {
  async life() {
    const name = `js-${randomUUID().slice(0, 8)}`;
    const tags = { kind: name };
    await withSandbox(
      async (sandbox) => {
        assert.equal(await sandbox.poll(), null);
        const again = await modal.sandboxes.fromId(sandbox.sandboxId);
        assert.equal((await run(again, ["echo", "again"])).stdout, "again\n");
        const named = await modal.sandboxes.fromName("js-tests", name);
        assert.equal(named.sandboxId, sandbox.sandboxId);
        const listed = [];
        for await (const one of modal.sandboxes.list({ appId: app.appId, tags })) {
          listed.push(one.sandboxId);
        }
        assert.deepEqual(listed, [sandbox.sandboxId]);
        assert.equal(await sandbox.terminate({ wait: true }), 137);
        assert.equal(await again.poll(), 137);
        await assert.rejects(() => run(again, ["true"]));
      },
      { name, tags },
    );
    await assert.rejects(
      () => modal.sandboxes.fromName("js-tests", name),
      client.NotFoundError,
    );
    const short = await modal.sandboxes.create(app, modal.images.fromRegistry(IMAGE), {
      command: ["sh", "-c", "echo said; exit 7"],
    });
    assert.equal(await short.wait(), 7);
    assert.equal(await short.stdout.readText(), "said\n");
  },

  async exec() {
    await withSandbox(async (sandbox) => {
      const done = await run(
        sandbox,
        ["sh", "-c", 'echo "$WHO in $PWD"; echo wrong >&2; exit 3'],
        { env: { WHO: "js" }, workdir: "/usr" },
      );
      assert.deepEqual(done, { stdout: "js in /usr\n", stderr: "wrong\n", code: 3 });
      const words = ["a b", "ü☃", "$HOME", "", "-n"];
      const printed = await run(sandbox, ["printf", "%s|", ...words]);
      assert.equal(printed.stdout, words.map((word) => `${word}|`).join(""));
      const killed = await run(sandbox, ["sh", "-c", "kill -9 $$"]);
      assert.equal(killed.code, 137);
      await assert.rejects(() => run(sandbox, ["/no/such/program"]), /no\/such\/program/);
      const many = await Promise.all(
        Array.from({ length: 20 }, (_, n) => run(sandbox, ["sh", "-c", `sleep 0.2; echo ${n}`])),
      );
      many.forEach((one, n) => assert.equal(one.stdout, `${n}\n`));
      const terminal = await run(sandbox, ["sh", "-c", "test -t 0 && tty"], { pty: true });
      assert.match(terminal.stdout, /^\/dev\/pts\/\d+\r\n$/);
    });
  },

  async streams() {
    await withSandbox(async (sandbox) => {
      // Lines come while the program runs.
      const talker = await sandbox.exec(["sh", "-c", "echo ready; read line; echo got $line"]);
      const reader = talker.stdout.getReader();
      assert.equal((await reader.read()).value, "ready\n");
      await talker.stdin.writeText("this\n");
      assert.equal((await reader.read()).value, "got this\n");
      assert.equal(await talker.wait(), 0);

      const sent = randomBytes(8 * MIB);
      const cat = await sandbox.exec(["cat"], { mode: "binary" });
      const writer = cat.stdin.getWriter();
      const written = (async () => {
        for (let at = 0; at < sent.length; at += MIB) {
          await writer.write(sent.subarray(at, at + MIB));
        }
        await writer.close();
      })();
      const came = await cat.stdout.readBytes();
      await written;
      assert.equal(await cat.wait(), 0);
      assert.equal(sha256(came), sha256(sent));

      // The client may wait first and read later.
      const late = await sandbox.exec(["head", "-c", String(8 * MIB), "/dev/zero"], {
        mode: "binary",
      });
      assert.equal(await late.wait(), 0);
      assert.equal((await late.stdout.readBytes()).length, 8 * MIB);
    });
  },

  async files() {
    const local = await mkdtemp(join(tmpdir(), "palisade-js-"));
    try {
      await withSandbox(async (sandbox) => {
        const files = sandbox.filesystem;
        await files.writeText("text ☃\n", "/work/new/text.txt");
        assert.equal(await files.readText("/work/new/text.txt"), "text ☃\n");
        const bytes = randomBytes(20 * MIB);
        await files.writeBytes(bytes, "/work/bytes");
        assert.equal(sha256(await files.readBytes("/work/bytes")), sha256(bytes));
        const sum = await run(sandbox, ["sha256sum", "/work/bytes"]);
        assert.equal(sum.stdout.split(" ")[0], sha256(bytes));

        await writeFile(join(local, "up"), bytes);
        await files.copyFromLocal(join(local, "up"), "/work/up");
        await files.copyToLocal("/work/up", join(local, "deep/down"));
        assert.equal(sha256(await readFile(join(local, "deep/down"))), sha256(bytes));

        await run(sandbox, ["ln", "-s", "bytes", "/work/link"]);
        const entries = await files.listFiles("/work");
        assert.deepEqual(
          entries.map((entry) => [entry.name, entry.type, entry.symlinkTarget]),
          [
            ["bytes", "file", null],
            ["link", "symlink", "bytes"],
            ["new", "directory", null],
            ["up", "file", null],
          ],
        );
        const info = await files.stat("/work/bytes");
        assert.equal(info.path, "/work/bytes");
        assert.equal(info.size, bytes.length);
        assert.equal(info.permissions, "0644");
        assert.equal(info.owner, "root");
        assert.ok(Math.abs(info.modifiedTime - Date.now() / 1000) < 600);

        await files.makeDirectory("/work/a/b");
        await files.remove("/work/a", { recursive: true });
        await files.remove("/work/link");
        assert.equal((await files.listFiles("/work")).length, 3);

        const fails = [
          [() => files.readText("/missing"), client.SandboxFilesystemNotFoundError],
          [() => files.readText("/work"), client.SandboxFilesystemIsADirectoryError],
          [() => files.writeText("", "/work"), client.SandboxFilesystemIsADirectoryError],
          [() => files.writeText("", "/work/up/x"), client.SandboxFilesystemNotADirectoryError],
          [() => files.listFiles("/work/up"), client.SandboxFilesystemNotADirectoryError],
          [() => files.stat("/missing"), client.SandboxFilesystemNotFoundError],
          [() => files.remove("/work"), client.SandboxFilesystemDirectoryNotEmptyError],
          [
            () => files.makeDirectory("/work", { createParents: false }),
            client.SandboxFilesystemPathAlreadyExistsError,
          ],
        ];
        for (const [act, kind] of fails) {
          await assert.rejects(act, (error) => error instanceof kind, String(act));
        }
      });
    } finally {
      await rm(local, { recursive: true });
    }
  },

  async watch() {
    await withSandbox(async (sandbox) => {
      await sandbox.filesystem.makeDirectory("/watched");
      // Nobody says when a watch has begun: files are made until one is seen.
      let seen = false;
      const making = (async () => {
        for (let n = 0; !seen; n++) {
          await sandbox.filesystem.writeText("", `/watched/${n}`);
        }
      })();
      const params = { filter: ["Create"], timeoutMs: 60_000 };
      for await (const event of sandbox.filesystem.watch("/watched", params)) {
        assert.equal(event.eventType, "Create");
        assert.match(event.paths[0], /^\/watched\/\d+$/);
        seen = true;
        break;
      }
      assert.ok(seen);
      await making;
      await assert.rejects(async () => {
        for await (const _ of sandbox.filesystem.watch("/missing")) break;
      }, client.SandboxFilesystemNotFoundError);
    });
  },

  async snapshot() {
    const image = await withSandbox(async (sandbox) => {
      await sandbox.filesystem.writeText("kept", "/kept/file");
      await run(sandbox, ["chmod", "640", "/kept/file"]);
      return await sandbox.snapshotFilesystem();
    });
    await withSandbox(
      async (sandbox) => {
        assert.equal(await sandbox.filesystem.readText("/kept/file"), "kept");
        assert.equal((await sandbox.filesystem.stat("/kept/file")).permissions, "0640");
      },
      {},
      image,
    );
  },
};

const part = parts[process.argv[2]];
assert.ok(part, `which part? ${Object.keys(parts).join(", ")}`);
await part();
modal.close();
// Channels of sandboxes stay open for half a minute.
process.exit(0);
