package snapshot

import (
	"fmt"
	"maps"
	"reflect"
	"slices"
	"testing"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
	"github.com/pulkdb/db/log"
)

// A crashStore is a directory of snapshots; a step commits one more, in two of
// three cases a difference, and removes what the last two do not need.
type crashStore struct {
	fs    vfs.FS
	chain []File // of the newest
	keep  []File // that the one before needs beside
}

func openCrashStore(fs vfs.FS) (crashtest.Store, error) {
	if err := fs.MkdirAll(testDir); err != nil {
		return nil, err
	}
	// As the log does, before anything counts.
	for _, dir := range []string{".", testDir} {
		if err := fs.SyncDir(dir); err != nil {
			return nil, err
		}
	}
	c := &crashStore{fs: fs}
	got, err := load(fs)
	if got.warned > 0 {
		err = fmt.Errorf("%d snapshots were passed over: %w", got.warned, crashtest.ErrInjected)
	}
	c.chain = got.files
	return c, err
}

func plannedSlots(s crashtest.Step) []Slot { return randomSlots(int(s.Seed%80), 2, s.Seed) }

// composed is what the given files hold, each written by the step of its
// sequence.
func composed(steps []crashtest.Step, files []File) []Slot {
	slots := map[log.PID]Slot{}
	for _, f := range files {
		for _, slot := range plannedSlots(steps[f.Sequence-1]) {
			slots[slot.PID] = slot
		}
	}
	var all []Slot
	for _, pid := range slices.Sorted(maps.Keys(slots)) {
		all = append(all, slots[pid])
	}
	return all
}

func (c *crashStore) Step(steps []crashtest.Step) (func(crashtest.Step) bool, error) {
	s := steps[len(steps)-1]
	h := headerOf(uint64(s.Number + 1))
	chain := []File(nil)
	if len(c.chain) > 0 && s.Seed%3 != 0 {
		chain = slices.Clone(c.chain)
		h.Parent = chain[len(chain)-1].Link
	}
	f, err := writeFile(c.fs, h, plannedSlots(s))
	if err != nil {
		return nil, err
	}
	c.keep, c.chain = c.chain, append(chain, f)
	var keep []uint64
	for _, f := range append(slices.Clone(c.keep), c.chain...) {
		keep = append(keep, f.Sequence)
	}
	return crashtest.All, RemoveOthers(c.fs, testDir, keep)
}

func (c *crashStore) Find(steps []crashtest.Step) ([]crashtest.Step, error) {
	got, err := load(c.fs)
	if err != nil {
		return nil, err
	}
	if got.warned > 0 {
		// A named file is complete; but a read of it may fail.
		return nil, fmt.Errorf("%d snapshots were passed over: %w", got.warned, crashtest.ErrInjected)
	}
	n := 0
	if got.found {
		n = int(got.header.Sequence)
	}
	switch {
	case n > len(steps):
		return nil, fmt.Errorf("snapshot %d was never written", n)
	case n > 0 && !reflect.DeepEqual(got.slots, composed(steps, got.files)):
		return nil, fmt.Errorf("snapshot %d has other slots", n)
	}
	for _, s := range steps[n:] {
		if s.Durable {
			return nil, fmt.Errorf("snapshot %d is lost, %d was found", s.Number+1, n)
		}
	}
	return steps[:n:n], nil
}

// Close makes the names durable, as the log's does.
func (c *crashStore) Close() error { return c.fs.SyncDir(testDir) }

var crashLayer = crashtest.Layer{Name: "snapshot", Open: openCrashStore}

// TestPowerLoss loses power at every file operation of writing snapshots and
// removing older ones (S1, S2).
func TestPowerLoss(t *testing.T) {
	result, err := crashtest.Power{Seed: crashtest.Seed(t), Points: crashtest.Points(1000), Steps: 10}.Run(crashLayer)
	crashtest.Report(t, "snapshot", result, err)
}

// TestEveryFault fails every file operation of the same, in every way.
func TestEveryFault(t *testing.T) {
	result, err := crashtest.Faults{Seed: crashtest.Seed(t), Steps: 4}.Run(crashLayer)
	crashtest.Report(t, "snapshot", result, err)
}
