// Keeps the whole bundle for use without a network. The next line changes with the bundle, so browsers notice a new one.
const BUNDLE = '@BUNDLE@';
const CACHE = `edgecompress-${BUNDLE}`;

async function keep() {
  const fresh = path => new Request(path, { cache: 'reload' });
  const manifest = await (await fetch(fresh('manifest.json'))).json();
  const cache = await caches.open(CACHE);
  await cache.addAll(['./', 'manifest.json', ...manifest.files.map(file => file.path)].map(fresh));
}

async function dropOlder() {
  const older = (await caches.keys()).filter(name => name.startsWith('edgecompress-') && name !== CACHE);
  await Promise.all(older.map(name => caches.delete(name)));
}

async function answer(request) {
  const cache = await caches.open(CACHE);
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}

self.addEventListener('install', event => event.waitUntil(keep()));
self.addEventListener('activate', event => event.waitUntil(dropOlder()));
self.addEventListener('fetch', event => {
  const own = event.request.method === 'GET' && new URL(event.request.url).origin === location.origin;
  if (own) event.respondWith(answer(event.request));
});
