package snapshot

import (
	"fmt"
	"reflect"
	"testing"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// A crashStore is a directory of snapshots; a step commits one more and removes
// those before the last two.
type crashStore struct{ fs vfs.FS }

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
	return &crashStore{fs}, nil
}

func plannedSlots(s crashtest.Step) []Slot { return randomSlots(int(s.Seed%80), 2, s.Seed) }

func (c *crashStore) Step(steps []crashtest.Step) (func(crashtest.Step) bool, error) {
	s := steps[len(steps)-1]
	if err := write(c.fs, headerOf(uint64(s.Number+1)), plannedSlots(s)); err != nil {
		return nil, err
	}
	return crashtest.All, RemoveOlder(c.fs, testDir, 2)
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
	case n > 0 && !(len(got.slots) == 0 && len(plannedSlots(steps[n-1])) == 0) && !reflect.DeepEqual(got.slots, plannedSlots(steps[n-1])):
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
