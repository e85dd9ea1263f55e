// Sends one message with nodemailer. The message is described by JSON on standard input:
//   {host, port, security: "starttls" | "implicit", ca, user, password, from, to: [..], subject, text, attachment?: {name, base64}}
// Prints the server's reply; on an error prints what an application would log, and exits with 1.
const fs = require("fs");
const nodemailer = require("nodemailer");

const job = JSON.parse(fs.readFileSync(0, "utf8"));
const transport = nodemailer.createTransport({
  host: job.host,
  port: job.port,
  secure: job.security === "implicit",
  requireTLS: job.security === "starttls",
  tls: { ca: fs.readFileSync(job.ca) },
  auth: { user: job.user, pass: job.password },
});
const attachments = job.attachment
  ? [{ filename: job.attachment.name, content: Buffer.from(job.attachment.base64, "base64") }]
  : [];
transport
  .sendMail({ from: job.from, to: job.to, subject: job.subject, text: job.text, attachments })
  .then((info) => console.log(info.response))
  .catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  })
  .finally(() => transport.close());
