package log

import (
	"testing"

	"github.com/pulkdb/db/internal/crashtest"
	"github.com/pulkdb/db/internal/testhooks"
)

// TestPlantedBugs: the harnesses find what is wrong on purpose.
func TestPlantedBugs(t *testing.T) {
	power := func(seed int64) (crashtest.Result, error) {
		return crashtest.Power{Seed: seed, Points: 400, Steps: 80, Planted: true}.Run(crashLayer)
	}
	faults := func(seed int64) (crashtest.Result, error) {
		return crashtest.Faults{Seed: seed, Every: 3, Planted: true}.Run(crashLayer)
	}
	crashtest.Planted(t, "skip a sync", &testhooks.SkipSync, power)
	crashtest.Planted(t, "skip the directory sync", &testhooks.SkipDirSync, power)
	crashtest.Planted(t, "accept a torn record", &testhooks.AcceptTornRecord, power)
	crashtest.Planted(t, "apply part of a batch", &testhooks.ApplyPartOfBatch, power)
	crashtest.Planted(t, "retry a failed sync", &testhooks.RetryFailedSync, faults)
	crashtest.Planted(t, "only sync what recovery accepts", &testhooks.RecoverBySync, faults)
}
