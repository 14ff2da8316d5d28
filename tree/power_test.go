package tree

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// A crashStore is a tree whose steps are writes of every kind.
type crashStore struct{ tree *Tree }

func openCrashStore(fs vfs.FS) (crashtest.Store, error) {
	o := tinyOnDisk(fs)
	o.Cache.SegmentBytes, o.Cache.BufferBytes, o.Cache.SnapshotBytes = 8<<10, 1<<10, 6<<10
	tr, err := Open(o)
	if err != nil {
		return nil, err
	}
	return &crashStore{tr}, nil
}

// plannedWrites are what a step does, and whether it syncs.
func plannedWrites(s crashtest.Step) (w Writes, sync bool) {
	rng := rand.New(rand.NewPCG(s.Seed, 1))
	key := func() string { return fmt.Sprintf("%03d", rng.IntN(120)) }
	val := func() []byte {
		size := rng.IntN(60)
		if rng.IntN(12) == 0 {
			size = 150 + rng.IntN(400) // in pages of its own
		}
		return value(fmt.Sprintf("%x", s.Seed), size)
	}
	ops := map[string]Op{}
	n := 1
	if rng.IntN(4) == 0 {
		n = 1 + rng.IntN(25)
	}
	for range n {
		k := key()
		if rng.IntN(5) == 0 {
			ops[k] = Op{Key: []byte(k), Kind: OpDelete}
		} else {
			ops[k] = Op{Key: []byte(k), Kind: OpSet, Value: val()}
		}
	}
	if rng.IntN(10) == 0 {
		lo := rng.IntN(120)
		w.Erase = []Range{{Lo: fmt.Appendf(nil, "%03d", lo), Hi: fmt.Appendf(nil, "%03d", lo+1+rng.IntN(30))}}
	}
	for _, k := range slices.Sorted(maps.Keys(ops)) {
		w.Ops = append(w.Ops, ops[k])
	}
	return w, rng.IntN(4) == 0
}

func applyPlanned(state crashtest.State, s crashtest.Step) {
	w, _ := plannedWrites(s)
	for _, r := range w.Erase {
		maps.DeleteFunc(state, func(k, _ string) bool { return k >= string(r.Lo) && k < string(r.Hi) })
	}
	for _, op := range w.Ops {
		if op.Kind == OpDelete {
			delete(state, string(op.Key))
		} else {
			state[string(op.Key)] = string(op.Value)
		}
	}
}

func (c *crashStore) Step(steps []crashtest.Step) (acknowledged func(crashtest.Step) bool, err error) {
	w, sync := plannedWrites(steps[len(steps)-1])
	if len(w.Ops) == 1 && len(w.Erase) == 0 {
		if op := w.Ops[0]; op.Kind == OpDelete {
			err = c.tree.Delete(op.Key)
		} else {
			err = c.tree.Set(op.Key, op.Value)
		}
	} else {
		err = c.tree.Commit(&w, nil)
	}
	if err != nil || !sync {
		return nil, err
	}
	return crashtest.All, c.tree.Sync()
}

func (c *crashStore) Find(steps []crashtest.Step) ([]crashtest.Step, error) {
	got := crashtest.State{}
	it := c.tree.Scan(nil, nil)
	for it.Next() {
		got[string(it.Key())] = string(it.Value())
	}
	if err := errors.Join(it.Err(), it.Close()); err != nil {
		return nil, err
	}
	if err := c.tree.Check(); err != nil {
		return nil, err
	}
	return crashtest.Prefix(steps, got, applyPlanned)
}

func (c *crashStore) Close() error { return c.tree.Close() }

var crashLayer = crashtest.Layer{Name: "tree", Open: openCrashStore, Failed: log.ErrFailed}

// TestPowerLoss loses power at every file operation.
func TestPowerLoss(t *testing.T) {
	result, err := crashtest.Power{Seed: crashtest.Seed(t), Points: crashtest.Points(2500), Steps: 80}.Run(crashLayer)
	crashtest.Report(t, "tree", result, err)
}

// TestEveryFault fails every file operation, in every way.
func TestEveryFault(t *testing.T) {
	result, err := crashtest.Faults{Seed: crashtest.Seed(t)}.Run(crashLayer)
	crashtest.Report(t, "tree", result, err)
}
