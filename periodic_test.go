package db_test

import (
	"maps"
	"math/rand/v2"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/vfs"
)

// A periodicCrash is what a loss of power left, and what it may have.
type periodicCrash struct {
	fs      *vfs.Mem
	states  []crashtest.State // after each write by then
	durable int               // index of the oldest that is right to find
}

// TestPeriodicPowerLoss: under DurabilityPeriodic what was acknowledged SyncInterval
// ago survives a loss of power, and what survives is a prefix of the writes. The
// clock is the test's own: nothing takes time but waiting, so it is exact.
func TestPeriodicPowerLoss(t *testing.T) {
	seed := crashtest.Seed(t)
	var result crashtest.Result
	newest, older := 0, 0
	for run := range max(crashtest.Points(12), 1) {
		rng := rand.New(rand.NewPCG(uint64(seed), uint64(run)))
		var crashes []periodicCrash
		synctest.Test(t, func(t *testing.T) { crashes = periodicRun(t, rng) })
		for _, c := range crashes {
			found := stateAfterCrash(t, c.fs)
			k := len(c.states) - 1
			for k > c.durable && !maps.Equal(c.states[k], found) {
				k--
			}
			require.True(t, maps.Equal(c.states[k], found), "run %d, after %d writes of which %d must be there: what is there is none of the states since then", run, len(c.states)-1, c.durable)
			if k == len(c.states)-1 {
				newest++
			} else {
				older++
			}
			result.Points, result.Reopens = result.Points+1, result.Reopens+1
		}
	}
	t.Logf("%d times all writes were there, %d times not the newest", newest, older)
	require.NotZero(t, older, "nothing was ever lost: the test is of no use")
	crashtest.Report(t, "db", result, nil)
}

// periodicRun writes to a store, waits now and then, and keeps what losses of power
// would leave.
func periodicRun(t *testing.T, rng *rand.Rand) (crashes []periodicCrash) {
	interval := time.Duration(1+rng.IntN(100)) * time.Millisecond
	fs := vfs.NewMem()
	o := badOptions()
	o.Durability, o.SyncInterval = db.DurabilityPeriodic, interval
	d, err := db.Open(imageDir, o.Minute().On(fs))
	require.NoError(t, err)
	states := []crashtest.State{{}}
	acknowledged := []time.Time{time.Now()}
	for range 120 {
		ops := planPower(crashtest.Step{Seed: rng.Uint64()}).ops[:1] // one write, so that each is whole
		require.NoError(t, writeOps(d, ops))
		next := maps.Clone(states[len(states)-1])
		applyOps(next, ops)
		states, acknowledged = append(states, next), append(acknowledged, time.Now())
		time.Sleep(time.Duration(rng.Int64N(int64(interval)/2 + 1)))
		if rng.IntN(6) > 0 {
			continue
		}
		synctest.Wait() // a sync that is due now, is done
		c := periodicCrash{fs: fs.CrashClone(rng.Int64()), states: states[:len(states):len(states)]}
		for i, at := range acknowledged {
			if time.Since(at) >= interval {
				c.durable = i
			}
		}
		crashes = append(crashes, c)
	}
	require.NoError(t, d.Close())
	return crashes
}

// stateAfterCrash returns what the store in fs holds.
func stateAfterCrash(t *testing.T, fs vfs.FS) crashtest.State {
	o := badOptions()
	o.Durability = db.DurabilityNone
	d, err := db.Open(imageDir, o.Minute().On(fs))
	require.NoError(t, err)
	found := crashtest.State{}
	it := d.Scan(nil, nil)
	for key, value := range it.All() {
		found[string(key)] = string(value)
	}
	require.NoError(t, it.Err())
	require.NoError(t, d.Close())
	return found
}
