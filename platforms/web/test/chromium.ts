/** Headless Chromium and a server on this machine for it. */

import { existsSync, readFileSync, statSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import path from "node:path";
import { chromium, type Browser } from "playwright-core";

/** The browser's program: EDGEKIT_CHROMIUM, or the first of these on PATH; undefined where there is none. */
export const PROGRAM: string | undefined =
  process.env["EDGEKIT_CHROMIUM"] ??
  ["chromium", "chromium-browser", "google-chrome"]
    .flatMap((name) => (process.env["PATH"] ?? "").split(path.delimiter).map((folder) => path.join(folder, name)))
    .find((file) => existsSync(file));

export const skip = PROGRAM ? false : "no Chromium on PATH, and EDGEKIT_CHROMIUM names none: apt-get install chromium";

/** Milliseconds that anything may take on a machine that does much else. */
export const PATIENCE = 120_000;

/** A browser that reaches nothing but this machine; with a camera that shows a file (.y4m, .mjpeg), or a pattern. */
export function launch(camera?: string): Promise<Browser> {
  const fake = ["--use-fake-device-for-media-stream", ...(camera ? [`--use-file-for-fake-video-capture=${camera}`] : [])];
  return chromium.launch({
    executablePath: PROGRAM!,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync", "--autoplay-policy=no-user-gesture-required",
      // The engine has megabytes of functions, and a test calls few of them.
      "--js-flags=--wasm-lazy-compilation",
      // Whatever is not on this machine is looked for at a proxy that is not there.
      "--proxy-server=127.0.0.1:9", "--proxy-bypass-list=127.0.0.1;localhost", ...fake,
    ],
  });
}

const TYPES: Readonly<Record<string, string>> = {
  ".html": "text/html", ".js": "text/javascript", ".mjs": "text/javascript", ".css": "text/css", ".json": "application/json",
  ".wasm": "application/wasm", ".png": "image/png", ".webm": "video/webm", ".svg": "image/svg+xml",
};

/** What a server has at an address: a folder (the address ends in /), or the bytes of a file. */
export type Content = string | Uint8Array;

export interface Server {
  readonly address: string;
  /** Paths that were asked for. */
  readonly asked: string[];
  close(): void;
}

/** Serve these on this machine alone, isolated from other origins, so that WebAssembly may have threads. */
export async function serve(contents: Readonly<Record<string, Content>>): Promise<Server> {
  const asked: string[] = [];
  const server = createServer((request, answer) => {
    const place = decodeURIComponent(new URL(request.url!, "http://localhost").pathname);
    asked.push(place);
    const bytes = found(contents, place);
    answer.writeHead(bytes ? 200 : 404, {
      "Content-Type": TYPES[path.extname(place)] ?? (place.endsWith("/") ? "text/html" : "application/octet-stream"),
      "Cross-Origin-Opener-Policy": "same-origin",
      "Cross-Origin-Embedder-Policy": "require-corp",
      "Cross-Origin-Resource-Policy": "cross-origin",
      "Cache-Control": "no-store",
    });
    answer.end(bytes);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  return {
    address: `http://127.0.0.1:${(server.address() as AddressInfo).port}/`,
    asked,
    close() {
      server.closeAllConnections();
      server.close();
    },
  };
}

/** The content with the longest address that fits. */
function found(contents: Readonly<Record<string, Content>>, place: string): Uint8Array | null {
  const fitting = Object.keys(contents).filter((one) => one === place || (typeof contents[one] === "string" && place.startsWith(one)));
  const best = fitting.sort((a, b) => b.length - a.length)[0];
  if (best === undefined) return null;
  const content = contents[best]!;
  if (typeof content !== "string") return content;
  const file = path.join(content, path.normalize(`/${place.slice(best.length)}`), place.endsWith("/") ? "index.html" : "");
  return existsSync(file) && statSync(file).isFile() ? readFileSync(file) : null;
}
