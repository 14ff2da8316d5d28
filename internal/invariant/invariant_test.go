package invariant

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	require.NotPanics(t, func() { Check(true, "fine") })
	require.PanicsWithValue(t, "pulk: invariant violated: broken", func() { Check(false, "broken") })
}

func TestCheckDebugPanicsOnlyInDebugBuilds(t *testing.T) {
	require.NotPanics(t, func() { CheckDebug(true, "fine") })
	if Debug {
		require.Panics(t, func() { CheckDebug(false, "broken") })
	} else {
		require.NotPanics(t, func() { CheckDebug(false, "broken") })
	}
}
