// Node's clients: node_client.mjs HOST:PORT USER TOKEN
//
// HTTP/2 by prior knowledge, HTTP/1.1 over few connections, and WebSockets as a page opens them.

import assert from "node:assert/strict";
import http from "node:http";
import http2 from "node:http2";
import { createRequire } from "node:module";

const [address, user, token] = process.argv.slice(2);
const WebSocket = createRequire(`${process.env.NODE_PATH}/`)("ws");

const authorization = `Bearer ${token}`;

function over2(session, headers, body) {
  return new Promise((resolve, reject) => {
    const stream = session.request(headers);
    let answer, hints = [], text = "";
    stream.on("headers", (fields) => hints.push(fields[":status"]));
    stream.on("response", (fields) => { answer = fields; });
    stream.setEncoding("utf8");
    stream.on("data", (piece) => { text += piece; });
    stream.on("end", () => resolve({ status: answer?.[":status"], answer, hints, text }));
    stream.on("error", reject);
    stream.end(body);
  });
}

async function checkHttp2() {
  const session = http2.connect(`http://${address}`);
  session.on("error", (error) => { throw error; });
  const get = (path, more) => over2(session, { ":path": path, authorization, ...more });
  const own = await get(`/api/${user}/echo?a=b`);
  assert.equal(own.status, 200);
  assert.equal(JSON.parse(own.text).headers["x-user-id"], user);
  const hinted = await get(`/api/${user}/hints`);
  assert.deepEqual([hinted.status, hinted.hints], [200, [103]]);
  const posts = Array.from({ length: 300 }, (_, n) =>
    over2(session, { ":path": `/api/${user}/echo?${n}`, ":method": "POST", authorization }, `body ${n}`));
  (await Promise.all(posts)).forEach((post, n) => {
    const echo = JSON.parse(post.text);
    assert.deepEqual([post.status, echo.url, echo.body], [200, `/api/${user}/echo?${n}`, `body ${n}`]);
  });
  const early = await over2(session,
    { ":path": `/api/${user}/early`, ":method": "POST", authorization }, "z".repeat(2 << 20));
  assert.deepEqual([early.status, early.text], [413, "too large"]);
  await assert.rejects(get(`/api/${user}/cut-length`));
  await assert.rejects(get(`/api/${user}/cut-chunks`));
  assert.equal((await get("/api/somebody-else/echo")).status, 403);
  assert.equal((await over2(session, { ":path": `/api/${user}/echo` })).status, 401);
  await new Promise((resolve) => session.close(resolve));
}

// Requests with pauses of about the upstream's idle limit: it closes as the next one comes. Those
// that may be sent again must never fail.
async function checkRaces() {
  const agent = new http.Agent({ keepAlive: true, maxSockets: 4 });
  const [host, port] = address.split(":");
  const get = (n) => new Promise((resolve, reject) => {
    const path = `/api/${user}/echo?${n}`;
    const request = http.get({ host, port, path, agent, headers: { authorization } }, (answer) => {
      let text = "";
      answer.on("data", (piece) => { text += piece; });
      answer.on("end", () => resolve([answer.statusCode, text]));
      answer.on("error", reject);
    });
    request.on("error", reject);
  });
  for (let round = 0; round < 60; round += 1) {
    const answers = await Promise.all([0, 1, 2, 3].map((n) => get(`${round}-${n}`)));
    answers.forEach(([status, text], n) => {
      assert.equal(status, 200, text);
      assert.equal(JSON.parse(text).url, `/api/${user}/echo?${round}-${n}`);
    });
    await new Promise((resolve) => setTimeout(resolve, round));
  }
  agent.destroy();
}

const checks = { http2: checkHttp2, races: checkRaces, sockets: checkSockets };

async function checkSockets() {
  const open = (path, protocols, options) => new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://${address}${path}`, protocols, options);
    socket.messages = [];
    socket.on("message", (data, binary) => socket.messages.push(binary ? data : String(data)));
    socket.on("open", () => resolve(socket));
    socket.on("unexpected-response", (_, answer) => reject(new Error(String(answer.statusCode))));
    socket.on("error", reject);
  });
  const next = async (socket) => {
    while (socket.messages.length === 0) await new Promise((r) => socket.once("message", r));
    return socket.messages.shift();
  };
  const offers = [
    [`bearer.${token}`], ["bearer", token], [`bearer.${token}`, "chat"], ["bearer", token, "chat"],
  ];
  for (const protocols of offers) {
    const socket = await open(`/api/${user}/socket`, protocols);
    assert.equal(JSON.parse(await next(socket)).user, user);
    assert.ok(protocols.includes(socket.protocol));
    for (let n = 0; n < 50; n += 1) {
      socket.send(`message ${n}`);
      assert.equal(await next(socket), `message ${n}`);
    }
    const closed = new Promise((resolve) => socket.on("close", (code) => resolve(code)));
    socket.send("close, please");
    assert.equal(await closed, 4001);
  }
  await assert.rejects(open(`/api/${user}/socket`, []), /401/);
  await assert.rejects(open("/api/somebody-else/socket", [`bearer.${token}`]), /403/);
}

await checks[process.env.CHECK]();
console.log(`${process.env.CHECK}: fine`);
process.exit(0);
