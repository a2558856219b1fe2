<?php

use Illuminate\Support\Facades\Broadcast;

// Who may listen. Laravel signs a yes with the app's secret; Fanfare checks the signature and asks nobody.
// The prefixes private-, presence- and private-encrypted- are not part of the names here.

Broadcast::channel('orders.{id}', function ($user, int $id) {
    // … your rule, such as $user->orders()->whereKey($id)->exists() …
    return $user->getAuthIdentifier() !== null;
});

// On a presence channel: what the others see of her.
Broadcast::channel('room.{id}', function ($user, int $id) {
    return ['id' => $user->getAuthIdentifier(), 'name' => $user->name];
});

// Notifications.
Broadcast::channel('App.Models.User.{id}', function ($user, $id) {
    return (string) $user->getAuthIdentifier() === (string) $id;
});
