package db_test

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
)

// A bank has accounts that all may transfer between, and vaults: each teller
// moves money between its own by batches, which read nothing.
const (
	bankAccounts = 1000
	bankTellers  = 16
	bankVaults   = 4 // of each teller, spread over all leaves
	bankBalance  = 100
	bankTotal    = (bankAccounts + bankTellers*bankVaults) * bankBalance
)

func accountKey(i int) []byte { return fmt.Appendf(nil, "bank/%04d/account", i) }

func vaultKey(teller, i int) []byte {
	return fmt.Appendf(nil, "bank/%04d/vault %02d", (teller*61+i*251)%bankAccounts, teller)
}

func bankEnd() []byte { return []byte("bank0") }

// doneKey is where a teller counts its transfers, in the transfer itself.
func doneKey(teller int) []byte { return fmt.Appendf(nil, "done/%02d", teller) }

// A balance has a length of its own, so that leaves grow and shrink.
func balance(n int) []byte {
	return append(binary.LittleEndian.AppendUint64(nil, uint64(n)), make([]byte, (n&31)*2)...)
}

func balanceOf(value []byte) int { return int(int64(binary.LittleEndian.Uint64(value))) }

// foundBank opens the accounts, all at one moment.
func foundBank(d *db.DB) error {
	if has, err := d.Has(accountKey(0)); err != nil || has {
		return err
	}
	b := d.NewBatch()
	for i := range bankAccounts {
		if err := b.Set(accountKey(i), balance(bankBalance)); err != nil {
			return err
		}
	}
	for teller := range bankTellers {
		for i := range bankVaults {
			if err := b.Set(vaultKey(teller, i), balance(bankBalance)); err != nil {
				return err
			}
		}
	}
	return b.Commit()
}

// A bankTeller moves money.
type bankTeller struct {
	db     *db.DB
	id     int
	r      *rand.Rand
	vaults [bankVaults]int
	done   uint64
}

func newTeller(d *db.DB, id int, seed uint64) (*bankTeller, error) {
	b := &bankTeller{db: d, id: id, r: rand.New(rand.NewPCG(seed, uint64(id)))}
	for i := range b.vaults {
		value, err := d.Get(vaultKey(id, i))
		if err != nil {
			return nil, err
		}
		b.vaults[i] = balanceOf(value)
	}
	value, err := d.Get(doneKey(id))
	if err == nil {
		b.done = binary.LittleEndian.Uint64(value)
	} else if errors.Is(err, db.ErrNotFound) {
		err = nil
	}
	return b, err
}

// work moves money once, in one way or another. ErrConflict is an answer.
func (b *bankTeller) work() error {
	if b.r.IntN(4) == 0 {
		return b.moveByBatch()
	}
	return b.transfer()
}

// transfer moves money from one account to a few others. An account that is left
// with nothing is closed, and one that is closed has nothing.
func (b *bankTeller) transfer() error {
	next := b.done + 1
	err := b.db.Update(func(tx *db.Tx) error {
		from, n := b.account(), 1+b.r.IntN(3)
		have, err := readBalance(tx, from)
		if err != nil {
			return err
		}
		for range n {
			to := b.account()
			amount := b.r.IntN(have + 1)
			if to == from {
				continue
			}
			there, err := readBalance(tx, to)
			if err != nil {
				return err
			}
			have -= amount
			if err := writeBalance(tx, to, there+amount); err != nil {
				return err
			}
		}
		if err := writeBalance(tx, from, have); err != nil {
			return err
		}
		return tx.Set(doneKey(b.id), binary.LittleEndian.AppendUint64(nil, next))
	})
	if err == nil {
		b.done = next
	}
	return err
}

// account returns one account; some are busier than others.
func (b *bankTeller) account() int {
	if b.r.IntN(4) == 0 {
		return b.r.IntN(20) * 50
	}
	return b.r.IntN(bankAccounts)
}

func readBalance(tx *db.Tx, account int) (int, error) {
	value, err := tx.Get(accountKey(account))
	if errors.Is(err, db.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return balanceOf(value), nil
}

func writeBalance(tx *db.Tx, account, n int) error {
	if n == 0 {
		return tx.Delete(accountKey(account))
	}
	return tx.Set(accountKey(account), balance(n))
}

func (b *bankTeller) moveByBatch() error {
	batch := b.db.NewBatch()
	vaults := b.vaults
	for range 1 + b.r.IntN(bankVaults) {
		from, to := b.r.IntN(bankVaults), b.r.IntN(bankVaults)
		amount := b.r.IntN(bankBalance)
		vaults[from] -= amount
		vaults[to] += amount
	}
	for i, n := range vaults {
		if err := batch.Set(vaultKey(b.id, i), balance(n)); err != nil {
			return err
		}
	}
	err := batch.Commit()
	if err == nil {
		b.vaults = vaults
	}
	return err
}

// total adds up what the iterator has, and closes it.
func total(it walker, back bool) (sum int, err error) {
	move := it.Next
	if back {
		move = it.Prev
	}
	for move() {
		sum += balanceOf(it.Value())
	}
	return sum, it.Close()
}

// audits are the ways to look at the whole bank.
var audits = map[string]func(d *db.DB) (int, error){
	"iterator":          func(d *db.DB) (int, error) { return total(d.Scan([]byte("bank/"), bankEnd()), false) },
	"iterator back":     func(d *db.DB) (int, error) { return total(d.Scan([]byte("bank/"), bankEnd()), true) },
	"iterator of all":   func(d *db.DB) (int, error) { return total(d.ScanPrefix([]byte("bank/")), true) },
	"snapshot by scan":  auditSnapshot,
	"snapshot by key":   auditByKey,
	"view":              auditView,
	"writing, may fail": auditUpdate,
}

// auditSnapshot scans a snapshot both ways, with time between.
func auditSnapshot(d *db.DB) (int, error) {
	s := d.Snapshot()
	defer s.Close()
	sum, err := total(s.Scan([]byte("bank/"), bankEnd()), false)
	if err != nil {
		return sum, err
	}
	time.Sleep(5 * time.Millisecond)
	again, err := total(s.Scan([]byte("bank/"), bankEnd()), true)
	if err == nil && again != sum {
		err = fmt.Errorf("a snapshot has %d and later %d", sum, again)
	}
	return sum, err
}

func auditByKey(d *db.DB) (sum int, err error) {
	s := d.Snapshot()
	defer s.Close()
	add := func(key []byte) error {
		value, err := s.Get(key)
		if err == nil {
			sum += balanceOf(value)
		}
		if errors.Is(err, db.ErrNotFound) {
			return nil
		}
		return err
	}
	for _, i := range rand.Perm(bankAccounts) {
		if err := add(accountKey(i)); err != nil {
			return sum, err
		}
	}
	for teller := range bankTellers {
		for i := range bankVaults {
			if err := add(vaultKey(teller, i)); err != nil {
				return sum, err
			}
		}
	}
	return sum, nil
}

func auditView(d *db.DB) (sum int, err error) {
	err = d.View(func(tx *db.Tx) error {
		sum, err = total(tx.Scan([]byte("bank/"), bankEnd()), rand.IntN(2) == 0)
		return err
	})
	return sum, err
}

// auditUpdate writes down what it found, if nobody has moved anything meanwhile.
func auditUpdate(d *db.DB) (sum int, err error) {
	tx, err := d.Begin(true)
	if err != nil {
		return 0, err
	}
	defer tx.Rollback()
	if sum, err = total(tx.Scan([]byte("bank/"), bankEnd()), rand.IntN(2) == 0); err != nil {
		return sum, err
	}
	if err = tx.Set([]byte("audit"), balance(sum)); err != nil {
		return sum, err
	}
	if err = tx.Commit(); errors.Is(err, db.ErrConflict) {
		err = nil // what it read is of one moment all the same
	}
	return sum, err
}

// TestBank has tellers transfer by transactions and move by batches, while others
// look at the whole bank in every way: no money is ever made or lost. The store is
// opened again in between.
func TestBank(t *testing.T) {
	const rounds = 2
	length := 2 * time.Second
	if testing.Short() {
		length /= 2
	}
	if s := os.Getenv("PULK_BANK"); s != "" {
		var err error
		length, err = time.ParseDuration(s)
		require.NoError(t, err)
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	dir := t.TempDir()
	var moved, refused, looks atomic.Int64
	for round := range rounds {
		d, err := db.Open(dir, db.Options{Durability: db.DurabilityNone}.Tiny())
		require.NoError(t, err)
		require.NoError(t, foundBank(d))
		deadline := time.Now().Add(length)
		var wait sync.WaitGroup
		for id := range bankTellers {
			b, err := newTeller(d, id, seed+uint64(round))
			require.NoError(t, err)
			wait.Go(func() {
				for time.Now().Before(deadline) && !t.Failed() {
					switch err := b.work(); {
					case errors.Is(err, db.ErrConflict):
						refused.Add(1)
					case err != nil:
						t.Errorf("teller %d: %v", id, err)
						return
					default:
						moved.Add(1)
					}
				}
			})
		}
		for name, audit := range audits {
			wait.Go(func() {
				for time.Now().Before(deadline) && !t.Failed() {
					sum, err := audit(d)
					if err != nil || sum != bankTotal {
						t.Errorf("%s: total %d, want %d; %v", name, sum, bankTotal, err)
						return
					}
					looks.Add(1)
				}
			})
		}
		wait.Wait()
		for name, audit := range audits {
			sum, err := audit(d)
			require.NoError(t, err, name)
			require.Equal(t, bankTotal, sum, name)
		}
		require.NoError(t, d.CheckTree())
		require.NoError(t, d.Close())
	}
	t.Logf("%d moves, %d given up in conflict, %d totals", moved.Load(), refused.Load(), looks.Load())
	require.NotZero(t, moved.Load())
	require.NotZero(t, looks.Load())
}

// bankUntilKilled is the child of TestBankKill. It reports the count of each
// teller's transfers when they are acknowledged.
func bankUntilKilled(dir, options string) {
	fail := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "child:", err)
			os.Exit(1)
		}
	}
	d, err := db.Open(dir, killOptionsOf(options))
	fail(err)
	fail(foundBank(d))
	fail(d.Sync())
	report(opened, 0)
	for id := range bankTellers {
		b, err := newTeller(d, id, rand.Uint64())
		fail(err)
		go func() {
			for {
				if err := b.work(); !errors.Is(err, db.ErrConflict) {
					fail(err)
				}
				report(id, int(b.done))
			}
		}()
	}
	for {
		for name, audit := range audits {
			sum, err := audit(d)
			fail(err)
			if sum != bankTotal {
				fail(fmt.Errorf("%s: total %d, want %d", name, sum, bankTotal))
			}
		}
	}
}

// TestBankKill kills a process that moves money and counts what is left: all of
// it, and under DurabilitySync every transfer that was acknowledged.
func TestBankKill(t *testing.T) {
	kills := 12
	if short() {
		kills = 6
	}
	for _, options := range []string{"tiny,sync", "tiny,none", "large,sync"} {
		t.Run(options, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			var acknowledged [bankTellers]uint64
			goesOn, life := killing(200 * time.Millisecond)
			n := 0
			for ; goesOn() || n < kills; n++ {
				killChild(t, opened, rand.N(life), func(w, n int) { acknowledged[w] = max(acknowledged[w], uint64(n)) },
					"bank", dir, options)
				opts := killOptionsOf(options)
				opts.ReadOnly = n%2 == 0
				d, err := db.Open(dir, opts)
				require.NoError(t, err)
				for name, audit := range audits {
					if opts.ReadOnly && name == "writing, may fail" {
						continue
					}
					sum, err := audit(d)
					require.NoError(t, err, name)
					require.Equal(t, bankTotal, sum, "kill %d: %s", n, name)
				}
				for id := range acknowledged {
					b, err := newTeller(d, id, 0)
					require.NoError(t, err)
					if options == "tiny,none" {
						acknowledged[id] = 0
					}
					require.GreaterOrEqual(t, b.done, acknowledged[id], "kill %d: teller %d", n, id)
					acknowledged[id] = b.done
				}
				checkWhole(t, d, options)
				require.NoError(t, d.Close())
			}
			t.Logf("%d kills, transfers %v", n, acknowledged)
			require.NotZero(t, acknowledged)
			crashtest.ReportCount(t, n, "kills")
		})
	}
}

func killOptionsOf(options string) *db.Options {
	size, durability := options[:len(options)-5], options[len(options)-4:]
	return killOptions(size, durability)
}
