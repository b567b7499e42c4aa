// Reads every tag and config of repositories with docker-registry-client:
//   node read.js HOST CONCURRENCY NAME...    (run in a folder where that package is installed)
const drc = require('docker-registry-client');
const [host, many, ...names] = process.argv.slice(2);
function each(items, work, limit) {
  let at = 0;
  const next = async () => { while (at < items.length) await work(items[at++]); };
  return Promise.all(Array.from({length: limit}, next));
}
const clients = {};
const tags = (name) => new Promise((done, fail) => clients[name].listTags((error, found) => error ? fail(error) : done(found.tags)));
const manifest = (name, ref) => new Promise((done, fail) => clients[name].getManifest({ref}, (error, found) => error ? fail(error) : done(found)));
const config = (name, digest) => new Promise((done, fail) => clients[name].createBlobReadStream({digest}, (error, stream) => {
  if (error) { fail(error); return; }
  const pieces = [];
  stream.on('data', (piece) => pieces.push(piece));
  stream.on('error', fail);
  stream.on('end', () => done(JSON.parse(Buffer.concat(pieces))));
  stream.resume();
}));
(async () => {
  const started = process.hrtime.bigint();
  const all = [];
  for (const name of names) {
    clients[name] = drc.createClientV2({name: `http://${host}/${name}`, insecure: true, maxSchemaVersion: 2});
    for (const tag of await tags(name)) all.push([name, tag]);
  }
  await each(all, async ([name, tag]) => { await config(name, (await manifest(name, tag)).config.digest); }, Number(many));
  console.log(JSON.stringify({seconds: Number(process.hrtime.bigint() - started) / 1e9, tags: all.length}));
  for (const name of names) clients[name].close();
})().catch((error) => { console.error(error); process.exit(1); });
