<?php

namespace App\Events;

use Illuminate\Broadcasting\InteractsWithSockets;
use Illuminate\Broadcasting\PrivateChannel;
use Illuminate\Contracts\Broadcasting\ShouldBroadcast;
use Illuminate\Foundation\Events\Dispatchable;

/** An order has been paid: for everybody who may see it. */
class OrderPaid implements ShouldBroadcast
{
    use Dispatchable;
    use InteractsWithSockets;

    public int $id;
    public string $paidAt;

    public function __construct(int $id, string $paidAt)
    {
        $this->id = $id;
        $this->paidAt = $paidAt;
    }

    /** The name on the wire is private-orders.42. */
    public function broadcastOn(): array
    {
        return [new PrivateChannel("orders.{$this->id}")];
    }

    /** What the pages get. Without this method it is all public properties. */
    public function broadcastWith(): array
    {
        return ['id' => $this->id, 'paid_at' => $this->paidAt];
    }
}
