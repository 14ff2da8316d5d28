// Salvage brings out of a damaged store what can be trusted, into a new one, and
// says what is lost. It changes nothing in the damaged store.
//
//	go run github.com/pulkdb/db/cmd/salvage DIR INTO
//
// It knows no Merger: keys with merge operands that were not folded yet are lost.
// Programs that use one call db.Salvage themselves. It exits with 1 if it failed, and
// with 2 if something is lost.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"

	"github.com/pulkdb/db"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: salvage DIR INTO")
		os.Exit(1)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	report, err := db.Salvage(ctx, os.Args[1], os.Args[2], nil)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	show(report)
	if !report.Whole() {
		os.Exit(2)
	}
}

func show(r *db.SalvageReport) {
	for _, d := range r.Damage {
		fmt.Println("damage:", d)
	}
	for _, l := range r.Lost {
		hi := "the end"
		if l.Hi != nil {
			hi = fmt.Sprintf("%q", l.Hi)
		}
		fmt.Printf("lost: keys from %q to %s: %s\n", l.Lo, hi, l.Why)
	}
	for _, key := range r.LostValues {
		fmt.Printf("lost: the value of %q\n", key)
	}
	fmt.Printf("%d keys, %d bytes; %d places damaged, %d ranges and %d values lost\n",
		r.Keys, r.Bytes, len(r.Damage), len(r.Lost), len(r.LostValues))
}
