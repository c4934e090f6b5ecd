// Publish one order; prints its id once the broker has confirmed it. BROKER_URL says where the broker is.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
)

const routingKey = "order.created.v2"

func main() {
	orderID, err := publishOrder(os.Getenv("BROKER_URL"))
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(orderID)
}

// publishOrder returns once the broker has confirmed the order. Without a confirmation, publish the same
// message again.
func publishOrder(brokerURL string) (string, error) {
	connection, err := amqp.Dial(brokerURL)
	if err != nil {
		return "", err
	}
	defer connection.Close()
	channel, err := connection.Channel()
	if err != nil {
		return "", err
	}
	if err := channel.Confirm(false); err != nil {
		return "", err
	}
	returned := channel.NotifyReturn(make(chan amqp.Return, 1))

	orderID := uuid.NewString()
	body, err := json.Marshal(map[string]any{
		"order_id":      orderID,
		"customer":      "cust_ada",
		"currency":      "EUR",
		"payment_token": "tok_ok",
		"lines":         []map[string]any{{"sku": "apple", "quantity": 2, "amount_minor": 500}},
	})
	if err != nil {
		return "", err
	}

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	const mandatory, immediate = true, false
	confirmation, err := channel.PublishWithDeferredConfirmWithContext(ctx, "facts", routingKey, mandatory, immediate,
		amqp.Publishing{
			ContentType:   "application/json",
			DeliveryMode:  amqp.Persistent,
			MessageId:     uuid.NewString(),
			Type:          routingKey,
			AppId:         "webshop",
			CorrelationId: orderID,
			Body:          body,
		})
	if err != nil {
		return "", err
	}
	if confirmed, err := confirmation.WaitContext(ctx); err != nil || !confirmed {
		return "", fmt.Errorf("not confirmed: %v", err)
	}
	select {
	case <-returned:
		return "", fmt.Errorf("no queue is bound to %s", routingKey)
	default:
		return orderID, nil
	}
}
