//go:build compare

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/testbed"
)

// TestCompareLatency measures how long a packet takes from the wire to the reader of -w -, at
// 2,000 packets/s on each host.
func TestCompareLatency(t *testing.T) {
	for hosts, want := range map[int][2]time.Duration{ // median, 99 %
		1:  {250 * time.Millisecond, 500 * time.Millisecond},
		20: {600 * time.Millisecond, 2 * time.Second},
	} {
		t.Run(fmt.Sprint(hosts, " hosts"), func(t *testing.T) {
			r := testbed.StartRedis(t)
			for n := range hosts {
				testbed.Start(t, daemonCommand(r, "-node", fmt.Sprint("web", n), "-maxreturn", "64MiB"))
			}
			r.AwaitSubscribers(t, 20*time.Second, int64(hosts))
			stream := testbed.StartStreamOf(t, 200, 500*time.Microsecond)
			latencies := readLatencies(t, clientCommand(r, "-", "timeout=6", "bpf="+stream.Filter()))
			slices.Sort(latencies)
			if len(latencies) == 0 {
				t.Fatal("no packets")
			}
			median, most := latencies[len(latencies)/2], latencies[len(latencies)*99/100]
			t.Logf("%d hosts, %d packets: median %v, 99 %% %v", hosts, len(latencies), median, most)
			if median > want[0] || most > want[1] {
				t.Errorf("want at most %v and %v", want[0], want[1])
			}
		})
	}
}

// readLatencies runs a client to its end and returns the age of each packet when it is read. Those of the first two
// seconds, in which hosts are waited for, do not count.
func readLatencies(t *testing.T, asking *exec.Cmd) (latencies []time.Duration) {
	t.Helper()
	from, to, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close()
	asking.Stdout = to
	client := testbed.Start(t, asking)
	to.Close()
	reader, err := pcapgo.NewNgReader(from, pcapgo.NgReaderOptions{WantMixedLinkType: true})
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	for {
		_, info, err := reader.ReadPacketData()
		if err != nil {
			break
		}
		if now := time.Now(); now.Sub(began) > 2*time.Second {
			latencies = append(latencies, now.Sub(info.Timestamp))
		}
	}
	if code := client.Wait(t, 10*time.Second); code != 0 {
		t.Errorf("want exit code 0, got %d, %s", code, client.Output.String())
	}
	return latencies
}
