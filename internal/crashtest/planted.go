package crashtest

import (
	"testing"

	"github.com/pulkdb/db/internal/invariant"
	"github.com/pulkdb/db/internal/testhooks"
)

// Planted turns a switch on that makes the store wrong, and requires that look
// finds it with one of some seeds. look returns what it tried, and an error if it
// found something.
func Planted(t *testing.T, name string, broken *testhooks.Switch, look func(seed int64) (Result, error)) {
	t.Helper()
	if !invariant.Debug {
		t.Skip("the switches have an effect in debug builds only: go test -race, or -tags pulkdebug")
	}
	t.Run(name, func(t *testing.T) {
		broken.Set(true)
		defer broken.Set(false)
		var tried Result
		for run := int64(1); run <= plantedRuns; run++ {
			result, err := look(run)
			tried.Points, tried.Faults, tried.Looks = tried.Points+result.Points, tried.Faults+result.Faults, tried.Looks+result.Looks
			if err != nil {
				t.Logf("found after %d crash points, %d faults, %d looks: %v", tried.Points, tried.Faults, tried.Looks, err)
				return
			}
		}
		t.Errorf("not found by %d crash points, %d faults, %d looks", tried.Points, tried.Faults, tried.Looks)
	})
}

// plantedRuns is how many seeds a planted bug may survive.
const plantedRuns = 12
