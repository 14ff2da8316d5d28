package snapshot

import (
	"errors"
	"testing"

	"github.com/pulkdb/db/internal/vfs"
	"github.com/stretchr/testify/require"
)

// TestCrashAnywhere crashes before each file operation of a second snapshot and
// of the removal of the first: afterwards one of the two is there, the second if
// Commit had returned (S1).
func TestCrashAnywhere(t *testing.T) {
	slots := map[uint64][]Slot{1: randomSlots(50, 2, 1), 2: randomSlots(9000, 2, 2)}
	for crashAt := int64(0); ; crashAt++ {
		fs := newFS(t)
		require.NoError(t, write(fs, headerOf(1), slots[1]))
		var clones []*vfs.Mem
		fault := vfs.NewFault(fs, func(op vfs.Op) error {
			if op.Index == crashAt {
				for seed := range int64(8) {
					clones = append(clones, fs.CrashClone(seed))
				}
			}
			return nil
		})
		require.NoError(t, write(fault, headerOf(2), slots[2]))
		committed := fault.Count()
		require.NoError(t, RemoveOthers(fault, testDir, []uint64{2}))
		if len(clones) == 0 {
			require.Greater(t, crashAt, int64(8), "operations")
			return
		}
		for seed, clone := range clones {
			got, err := load(clone)
			require.NoError(t, err)
			require.True(t, got.found, "before operation %d, seed %d", crashAt, seed)
			require.Zero(t, got.warned, "a named file is complete")
			if crashAt >= committed {
				require.EqualValues(t, 2, got.header.Sequence)
			}
			require.Equal(t, slots[got.header.Sequence], got.slots)
		}
	}
}

// TestFailAnywhere fails each file operation of a second snapshot once: Commit
// reports it, the first snapshot stays, and a third can be written.
func TestFailAnywhere(t *testing.T) {
	slots := randomSlots(9000, 2, 2)
	failure := errors.New("injected")
	for failAt := int64(0); ; failAt++ {
		fs := newFS(t)
		require.NoError(t, write(fs, headerOf(1), nil))
		failed := vfs.OpKind(0)
		fault := vfs.NewFault(fs, func(op vfs.Op) error {
			if op.Index == failAt {
				failed = op.Kind
				return failure
			}
			return nil
		})
		err := write(fault, headerOf(2), slots)
		if failed == 0 {
			require.NoError(t, err)
			return
		}
		require.ErrorIs(t, err, failure, "operation %d", failAt)
		got, err := load(fs)
		require.NoError(t, err)
		require.True(t, got.found)
		require.Zero(t, got.warned)
		if failed != vfs.OpSyncDir {
			require.EqualValues(t, 1, got.header.Sequence)
		}
		require.NoError(t, write(fs, headerOf(3), slots))
		require.NoError(t, RemoveOthers(fs, testDir, []uint64{3}))
		names, err := fs.ReadDir(testDir)
		require.NoError(t, err)
		require.Equal(t, []string{"0000000000000003.snap"}, names)
	}
}

// TestUnreadableFallsBack fails each operation of a Load once.
func TestUnreadableFallsBack(t *testing.T) {
	fs, _, _ := twoSnapshots(t)
	failure := errors.New("injected")
	for failAt := int64(0); ; failAt++ {
		failed := vfs.OpKind(0)
		got, err := load(vfs.NewFault(fs, func(op vfs.Op) error {
			if op.Index == failAt {
				failed = op.Kind
				return failure
			}
			return nil
		}))
		switch failed {
		case 0:
			require.NoError(t, err)
			require.EqualValues(t, 2, got.header.Sequence)
			return
		case vfs.OpReadDir, vfs.OpStat:
			require.ErrorIs(t, err, failure)
		case vfs.OpClose:
			require.NoError(t, err)
		default:
			require.NoError(t, err)
			require.EqualValues(t, 1, got.header.Sequence, "after %v failed", failed)
			require.Equal(t, 1, got.warned)
		}
	}
}
