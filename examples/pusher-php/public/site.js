const { key, host, port, user } = document.querySelector('main').dataset;
const at = (id) => document.getElementById(id);
const item = (text, title = '') => Object.assign(document.createElement('li'), { textContent: text, title });

const pusher = new Pusher(key, {
  // pusher-js insists on a cluster; with wsHost it means nothing.
  cluster: '', wsHost: host, wsPort: Number(port), wssPort: Number(port), forceTLS: location.protocol === 'https:',
  enabledTransports: ['ws', 'wss'],
  channelAuthorization: { endpoint: 'auth.php', transport: 'ajax' },
  userAuthentication: { endpoint: 'auth.php', transport: 'ajax' },
});
pusher.connection.bind('state_change', ({ current }) => { at('state').textContent = current; });

// Who is here. The first list has everybody; after that each coming and going is told.
const lobby = pusher.subscribe('presence-lobby');
const list = () => {
  const members = [];
  lobby.members.each(({ id, info }) => members.push(item(id, `since ${info.since}`)));
  at('members').replaceChildren(...members.sort((a, b) => a.textContent.localeCompare(b.textContent)));
};
for (const event of ['pusher:subscription_succeeded', 'pusher:member_added', 'pusher:member_removed']) lobby.bind(event, list);

// What is said here: by the server, and, without it, that somebody is about to.
const room = pusher.subscribe('private-lobby');
room.bind('said', ({ from, text }) => {
  at('heard').append(item(`${from}: ${text}`));
  at('typing').textContent = '';
});
room.bind('client-typing', ({ from }) => { at('typing').textContent = `${from} is writing`; });
for (const channel of [lobby, room]) {
  channel.bind('pusher:subscription_error', ({ error, status }) => { at('state').textContent = `refused: ${error ?? status}`; });
}

// What is said to this user alone, on all her tabs.
pusher.user.bind('mail', ({ from, text }) => at('heard').append(item(`${from}, to you alone: ${text}`)));
pusher.signin();

let typed = 0;
at('say').elements.text.addEventListener('input', () => {
  if (Date.now() - typed < 1000) return;
  typed = Date.now();
  room.trigger('client-typing', { from: user });
});
at('say').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  form.set('socket_id', pusher.connection.socket_id);
  const { ok } = await fetch('publish.php', { method: 'POST', body: form });
  if (!ok) return;
  const to = form.get('to');
  at('heard').append(item(`${user}${to ? `, to ${to} alone` : ''}: ${form.get('text')}`));
  event.target.elements.text.value = '';
});
