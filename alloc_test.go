package db_test

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/pulkdb/db"
	"github.com/pulkdb/db/internal/invariant"
)

// Allocations on the Go heap per call. What a write needs lives in page memory,
// outside it; consolidations and splits in between take a little, which is the
// fraction below.
const (
	allocsGetTo = 0
	allocsGet   = 1 // the result
	allocsHas   = 0
	allocsSet   = 0.5
)

func TestAllocations(t *testing.T) {
	if invariant.Debug {
		t.Skip("debug builds allocate for their checks")
	}
	const keys = 10_000
	d := open(t, t.TempDir(), &db.Options{Durability: db.DurabilityNone})
	key := func(i int) []byte { return fmt.Appendf(nil, "key %012d", i%keys) }
	value := make([]byte, 100)
	all := make([][]byte, keys)
	for i := range all {
		all[i] = key(i)
		require.NoError(t, d.Set(all[i], value))
	}
	i := 0
	next := func() []byte { i = (i + 7919) % keys; return all[i] }
	dst := make([]byte, 0, 200)
	tests := []struct {
		name string
		most float64
		call func() error
	}{
		{"GetTo", allocsGetTo, func() error { _, err := d.GetTo(dst, next()); return err }},
		{"Get", allocsGet, func() error { _, err := d.Get(next()); return err }},
		{"Has", allocsHas, func() error { _, err := d.Has(next()); return err }},
		{"Set", allocsSet, func() error { return d.Set(next(), value) }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			var failed error
			const calls = 20_000
			// AllocsPerRun rounds down, so one run is many calls.
			allocs := testing.AllocsPerRun(1, func() {
				for range calls {
					if err := test.call(); err != nil {
						failed = err
					}
				}
			}) / calls
			require.NoError(t, failed)
			t.Logf("%.4f allocations per call", allocs)
			// The background takes a few at any time.
			require.LessOrEqual(t, allocs, test.most+0.005)
		})
	}
}
