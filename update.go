package db

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	// updateTriesMax is how often Update calls its function at most.
	updateTriesMax = 100

	// Before the second try Update waits up to backoffMin, and before each later
	// one up to twice as long, but no longer than backoffMax: less than five
	// seconds in all.
	backoffMin = 50 * time.Microsecond
	backoffMax = 50 * time.Millisecond
)

// View calls fn with a transaction that cannot write, and returns fn's error. It
// finishes the transaction itself, also if fn panics: fn must not.
func (d *DB) View(fn func(tx *Tx) error) error { return d.ViewContext(context.Background(), fn) }

// ViewContext is View, and does not begin if ctx is done: it returns an error that
// wraps that of ctx then.
func (d *DB) ViewContext(ctx context.Context, fn func(tx *Tx) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("db: view: %w", err)
	}
	tx, err := d.begin(false, true)
	if err != nil {
		return err
	}
	defer tx.finish()
	return fn(tx)
}

// Update calls fn with a transaction that can write, and commits it if fn returns
// nil. If fn returns an error, nothing is written, and Update returns it. If fn
// panics, nothing is written, and the panic goes on. fn must not finish the
// transaction itself.
//
// When the commit fails with ErrConflict, Update calls fn again with a new
// transaction, after a wait that is short and random at first and longer later.
// So fn may run several times, and what else it does must allow for that. After
// 100 tries, and less than five seconds of waiting, it gives up with an error
// that wraps ErrConflict. An ErrConflict that fn itself returns is an error like
// any other.
//
// Transactions inside fn are independent of its own: one that writes what fn has
// read makes fn conflict each time.
func (d *DB) Update(fn func(tx *Tx) error) error { return d.UpdateContext(context.Background(), fn) }

// UpdateContext is Update, and gives up when ctx is done, which it looks at before
// each try and while it waits for the next: it returns an error that wraps that
// of ctx then. A commit under way is not interrupted.
func (d *DB) UpdateContext(ctx context.Context, fn func(tx *Tx) error) error {
	for try := 1; ; try++ {
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("db: update, before try %d: %w", try, err)
		}
		conflict, err := d.tryUpdate(fn)
		switch {
		case !conflict:
			return err
		case try == updateTriesMax:
			return fmt.Errorf("db: update: gave up after %d tries: %w", try, err)
		}
		d.retries.Add(1)
		backOff(ctx, try)
	}
}

// tryUpdate runs fn in one transaction. conflict is true if err is ErrConflict of
// its commit.
func (d *DB) tryUpdate(fn func(tx *Tx) error) (conflict bool, err error) {
	tx, err := d.begin(true, true)
	if err != nil {
		return false, err
	}
	defer tx.finish()
	if err := fn(tx); err != nil {
		return false, err
	}
	err = tx.commit()
	return errors.Is(err, ErrConflict), err
}

// backOff waits after a try that failed, at most until ctx is done. The random
// part keeps those that met from meeting again.
func backOff(ctx context.Context, try int) {
	most := min(backoffMin<<min(try-1, 20), backoffMax)
	timer := time.NewTimer(rand.N(most))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}
