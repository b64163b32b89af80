// Serve better-auth with its handler for Node: node server.js PORT

import { createServer } from "node:http";
import { toNodeHandler } from "better-auth/node";
import { auth } from "./auth.js";

// Signing in sets two cookies, and the load generator sees the last one only. So the answer to a
// log-in, and to nothing else, repeats both in its body, ready to be sent back.
const signIn = toNodeHandler(async (request) => {
  const response = await auth.handler(request);
  const cookie = response.headers
    .getSetCookie()
    .map((line) => line.split(";", 1)[0])
    .join("; ");
  return Response.json({ ...(await response.json()), cookie }, response);
});
const handler = toNodeHandler(auth);

createServer((request, response) =>
  request.url === "/api/auth/sign-in/email" ? signIn(request, response) : handler(request, response),
).listen(Number(process.argv[2]), "127.0.0.1");
