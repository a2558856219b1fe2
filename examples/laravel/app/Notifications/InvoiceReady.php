<?php

namespace App\Notifications;

use Illuminate\Notifications\Messages\BroadcastMessage;
use Illuminate\Notifications\Notification;

/** To one user, on private-App.Models.User.42: $user->notify(new InvoiceReady('2026-117')). */
class InvoiceReady extends Notification
{
    private string $number;

    public function __construct(string $number)
    {
        $this->number = $number;
    }

    public function via($notifiable): array
    {
        return ['broadcast'];
    }

    public function toBroadcast($notifiable): BroadcastMessage
    {
        return new BroadcastMessage(['number' => $this->number]);
    }
}
