package tree

import (
	"fmt"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db/internal/vfs"
)

// Blind updates beside splits of the leaves they go to: each lands where it is
// found again (T2), in memory and after a restart.
func TestBlindUpdates(t *testing.T) {
	const writers, keys = 4, 1500
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	yieldHook = func(yieldPoint) {
		if n := rand.IntN(40); n == 0 {
			time.Sleep(20 * time.Microsecond)
		} else if n < 10 {
			runtime.Gosched()
		}
	}
	defer func() { yieldHook = nil }()
	fs := vfs.NewMem()
	var last [writers][keys]int
	key := func(w, i int) []byte { return fmt.Appendf(nil, "%05d/%d", i*7919%10007, w) }
	blind, splits := uint64(0), uint64(0)
	for round := range 3 {
		tr, err := Open(tinyOnDisk(fs))
		require.NoError(t, err)
		var wg sync.WaitGroup
		for w := range writers {
			rng := rand.New(rand.NewPCG(seed, uint64(round*writers+w)))
			wg.Go(func() {
				for n := range 3000 {
					i := rng.IntN(keys * (round + 1) / 3)
					last[w][i] = round*3000 + n + 1
					if err := tr.Set(key(w, i), fmt.Appendf(nil, "%d", last[w][i])); err != nil {
						t.Errorf("%v", err)
						return
					}
				}
			})
		}
		wg.Wait()
		require.NoError(t, tr.Check())
		m := tr.Metrics()
		blind, splits = blind+m.BlindUpdates, splits+m.LeafSplits
		require.NoError(t, tr.Close())
		tr, err = Open(tinyOnDisk(fs))
		require.NoError(t, err)
		for w := range writers {
			for i, want := range last[w] {
				got, ok := get(t, tr, string(key(w, i)))
				require.Equal(t, want != 0, ok)
				if ok {
					require.Equal(t, fmt.Sprint(want), got)
				}
			}
		}
		require.NoError(t, tr.Check())
		require.NoError(t, tr.Close())
	}
	t.Logf("%d blind updates, %d splits", blind, splits)
	require.NotZero(t, blind)
}
