// An API on Node's own HTTP server, which closes idle connections early. Prints its port.

import { createHash } from "node:crypto";
import http from "node:http";

const KEEP_ALIVE_MS = Number(process.argv[2] ?? 5000);

// Streams of events that wait for leave to go on.
let waiting = [];

const server = http.createServer((request, response) => {
  const name = request.url.split("?")[0].split("/").slice(3).join("/");
  if (name === "events") {
    response.writeHead(200, { "content-type": "text/event-stream", "cache-control": "no-cache" });
    let n = 0;
    const send = () => response.write(`data: ${n++}\n\n`);
    waiting.push(send);
    response.on("close", () => { waiting = waiting.filter((other) => other !== send); });
    send();
    return;
  }
  if (name === "hints") {
    response.writeEarlyHints({ link: "</a.css>; rel=preload" });
  }
  if (name === "early") {
    // Answers before the body was read, and reads no more of it.
    response.writeHead(413, { connection: "close" });
    response.end("too large");
    return;
  }
  const digest = createHash("sha256");
  const pieces = [];
  let bytes = 0;
  request.on("data", (piece) => {
    bytes += piece.length;
    digest.update(piece);
    if (bytes < 100_000) pieces.push(piece);
  });
  request.on("end", () => {
    const json = (value) => {
      response.setHeader("content-type", "application/json");
      response.end(JSON.stringify(value));
    };
    if (name === "digest") return json({ bytes, sha256: digest.digest("hex") });
    if (name === "next-event") {
      waiting.forEach((send) => send());
      return response.writeHead(204).end();
    }
    if (name.startsWith("bytes/")) return response.end(Buffer.alloc(Number(name.slice(6)), "x"));
    if (name === "cut-length" || name === "cut-chunks") {
      if (name === "cut-length") response.setHeader("content-length", 100_000);
      response.write("y".repeat(50_000), () => setImmediate(() => request.socket.destroy()));
      return;
    }
    const body = Buffer.concat(pieces).toString();
    json({ method: request.method, url: request.url, headers: request.headers, body });
  });
});
server.keepAliveTimeout = KEEP_ALIVE_MS;
server.listen(0, "127.0.0.1", () => console.log(server.address().port));
process.stdin.on("end", () => process.exit(0)).resume();
