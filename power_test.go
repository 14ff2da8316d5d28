package db_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// A powerStore is a store whose steps are calls of the public API.
type powerStore struct {
	d    *db.DB
	sync bool // every write is durable when it returns
}

func powerLayer(durability db.Durability) crashtest.Layer {
	return crashtest.Layer{
		Name:   "db " + durability.String(),
		Failed: db.ErrFailed,
		Open: func(fs vfs.FS) (crashtest.Store, error) {
			// Options may change from one Open to the next.
			o := db.Options{Durability: durability, Logger: slog.New(slog.DiscardHandler), Merger: addOperand}
			if powerOpens.Add(1)%2 == 0 {
				o.Compression = db.CompressionZstd
			}
			d, err := db.Open("store", o.Minute().On(fs))
			if err != nil {
				return nil, err
			}
			return &powerStore{d, durability == db.DurabilitySync}, nil
		},
	}
}

var powerOpens atomic.Int64

func addOperand(_, base, operand []byte) ([]byte, error) {
	return append(bytes.Clone(base), operand...), nil
}

// A powerStep is what a step does.
type powerStep struct {
	ops    []db.Op
	how    int // one by one if there is one; as a batch; in a transaction
	sync   bool
	held   bool // beside an open read snapshot and an iterator
	reread bool // reads before it writes
}

func planPower(s crashtest.Step) powerStep {
	rng := rand.New(rand.NewPCG(s.Seed, 2))
	key := func() []byte { return fmt.Appendf(nil, "%03d", rng.IntN(90)) }
	p := powerStep{how: rng.IntN(3), sync: rng.IntN(4) == 0, held: rng.IntN(8) == 0, reread: rng.IntN(3) == 0}
	n := 1
	if p.how > 0 {
		n += rng.IntN(20)
	}
	for range n {
		switch rng.IntN(12) {
		case 0, 1:
			p.ops = append(p.ops, db.Op{Kind: db.OpDelete, Key: key()})
		case 3:
			p.ops = append(p.ops, db.Op{Kind: db.OpMerge, Key: key(), Value: fmt.Appendf(nil, "%x+", s.Seed)})
		case 2:
			lo := rng.IntN(90)
			p.ops = append(p.ops, db.Op{Kind: db.OpDeleteRange, Key: fmt.Appendf(nil, "%03d", lo), End: fmt.Appendf(nil, "%03d", lo+1+rng.IntN(12))})
		default:
			size := rng.IntN(4)
			if rng.IntN(10) == 0 {
				size = 20 + rng.IntN(30)
			}
			p.ops = append(p.ops, db.Op{Kind: db.OpSet, Key: key(), Value: []byte(strings.Repeat(fmt.Sprintf("%x.", s.Seed), size))})
		}
	}
	return p
}

func applyPower(state crashtest.State, s crashtest.Step) { applyOps(state, planPower(s).ops) }

func applyOps(state crashtest.State, ops []db.Op) {
	for _, op := range ops {
		switch op.Kind {
		case db.OpSet:
			state[string(op.Key)] = string(op.Value)
		case db.OpMerge:
			state[string(op.Key)] += string(op.Value)
		case db.OpDelete:
			delete(state, string(op.Key))
		case db.OpDeleteRange:
			maps.DeleteFunc(state, func(k, _ string) bool { return k >= string(op.Key) && k < string(op.End) })
		}
	}
}

// An opWriter is what DB, Batch and Tx have in common.
type opWriter interface {
	Set(key, value []byte) error
	Delete(key []byte) error
	DeleteRange(lo, hi []byte) error
	Merge(key, operand []byte) error
}

func writeOps(w opWriter, ops []db.Op) (err error) {
	for _, op := range ops {
		switch op.Kind {
		case db.OpSet:
			err = w.Set(op.Key, op.Value)
		case db.OpMerge:
			err = w.Merge(op.Key, op.Value)
		case db.OpDelete:
			err = w.Delete(op.Key)
		case db.OpDeleteRange:
			err = w.DeleteRange(op.Key, op.End)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *powerStore) Step(steps []crashtest.Step) (func(crashtest.Step) bool, error) {
	plan := planPower(steps[len(steps)-1])
	if plan.held {
		snapshot := p.d.Snapshot()
		defer snapshot.Close()
		it := p.d.Scan(nil, nil)
		defer it.Close()
		it.Next()
	}
	if err := p.write(plan); err != nil {
		return nil, err
	}
	switch {
	case p.sync:
		return crashtest.All, nil
	case plan.sync:
		return crashtest.All, p.d.Sync()
	}
	return nil, nil
}

func (p *powerStore) write(plan powerStep) error {
	switch plan.how {
	case 0:
		return writeOps(p.d, plan.ops)
	case 1:
		b := p.d.NewBatch()
		if err := writeOps(b, plan.ops); err != nil {
			return err
		}
		return b.Commit()
	}
	return p.d.Update(func(tx *db.Tx) error {
		if plan.reread {
			if _, err := tx.Get(plan.ops[0].Key); err != nil && !errors.Is(err, db.ErrNotFound) {
				return err
			}
		}
		return writeOps(tx, plan.ops)
	})
}

func (p *powerStore) Find(steps []crashtest.Step) ([]crashtest.Step, error) {
	got := crashtest.State{}
	for it := p.d.Scan(nil, nil); ; {
		if !it.Next() {
			if err := errors.Join(it.Err(), it.Close()); err != nil {
				return nil, err
			}
			break
		}
		got[string(it.Key())] = string(it.Value())
	}
	for key, value := range got {
		if v, err := p.d.Get([]byte(key)); err != nil {
			return nil, fmt.Errorf("get %q, which a scan found: %w", key, err)
		} else if string(v) != value {
			return nil, fmt.Errorf("get %q gives another value than the scan", key)
		}
	}
	return crashtest.Prefix(steps, got, applyPower)
}

func (p *powerStore) Close() error { return p.d.Close() }

// TestPowerLoss loses power at every file operation, again and again.
func TestPowerLoss(t *testing.T) {
	for _, durability := range []db.Durability{db.DurabilitySync, db.DurabilityNone} {
		t.Run(durability.String(), func(t *testing.T) {
			result, err := crashtest.Power{Seed: crashtest.Seed(t), Points: crashtest.Points(1000), Steps: 60}.Run(powerLayer(durability))
			crashtest.Report(t, "db", result, err)
		})
	}
}

// TestEveryFault fails every file operation, in every way.
func TestEveryFault(t *testing.T) {
	result, err := crashtest.Faults{Seed: crashtest.Seed(t)}.Run(powerLayer(db.DurabilitySync))
	crashtest.Report(t, "db", result, err)
}
