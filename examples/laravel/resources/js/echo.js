// npm install laravel-echo pusher-js, and `import './echo'` in resources/js/app.js.

import Echo from 'laravel-echo';
import Pusher from 'pusher-js';

window.Pusher = Pusher;
const port = Number(import.meta.env.VITE_PUSHER_PORT);
window.Echo = new Echo({
  broadcaster: 'pusher',
  key: import.meta.env.VITE_PUSHER_APP_KEY,
  // pusher-js insists on one; with wsHost it means nothing.
  cluster: '',
  wsHost: import.meta.env.VITE_PUSHER_HOST,
  wsPort: port,
  wssPort: port,
  forceTLS: import.meta.env.VITE_PUSHER_SCHEME === 'https',
  enabledTransports: ['ws', 'wss'],
});
