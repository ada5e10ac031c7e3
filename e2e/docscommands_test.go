package e2e

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"pcapdaemon/testbed"
)

// shownCommands returns the lines of a paper's examples. A quoted text over
// several lines is one of them, and so is what a backslash continues.
func shownCommands(t *testing.T, name string) []string {
	t.Helper()
	examples := regexp.MustCompile("(?ms)^```\n(.*?)^```$")
	if name == manPage {
		examples = regexp.MustCompile(`(?ms)^\.RS\n(.*?)^\.RE$`)
	}
	var commands []string
	for _, match := range examples.FindAllStringSubmatch(unroff(read(t, name)), -1) {
		open := false
		for line := range strings.Lines(match[1]) {
			line = strings.TrimSuffix(line, "\n")
			switch {
			case name == manPage && strings.HasPrefix(line, "."): // a request of roff
				continue
			case open:
				commands[len(commands)-1] += "\n" + line
			default:
				commands = append(commands, strings.TrimPrefix(line, "$ "))
			}
			last := commands[len(commands)-1]
			open = strings.Count(last, "'")%2 == 1 || strings.HasSuffix(last, `\`)
		}
	}
	return commands
}

// TestShownRequestsAreGood has the program judge every request that a paper
// shows. Where no Redis is, a good one is not published, and a wrong one is
// wrong usage.
func TestShownRequestsAreGood(t *testing.T) {
	testbed.NeedTools(t, "sh")
	tools := t.TempDir()
	err := os.Symlink(binary, filepath.Join(tools, "pcapdaemon"))
	if err == nil {
		script := "#!/bin/sh\n[ \"$1\" = PUBLISH ] && exec pcapdaemon -publish \"$3\"\n"
		err = os.WriteFile(filepath.Join(tools, "redis-cli"), []byte(script), 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	asks := regexp.MustCompile(`^(pcapdaemon .*-(publish|rollcall)\b|redis-cli PUBLISH )`)
	shown := 0
	for _, name := range []string{readme, operations, manPage} {
		for _, command := range shownCommands(t, name) {
			command = strings.TrimPrefix(command, "./")
			if !asks.MatchString(command) || strings.Contains(command, " - <") {
				continue
			}
			shown++
			cmd := exec.Command("sh", "-c", command)
			cmd.Dir = t.TempDir()
			cmd.Env = append(os.Environ(), "PATH="+tools+":"+os.Getenv("PATH"),
				"PCAPDAEMON_REDISPORT=1") // which nobody listens to
			out, err := cmd.CombinedOutput()
			if cmd.ProcessState.ExitCode() != 1 || !strings.Contains(string(out), "connection refused") {
				t.Errorf("%s: %s: want a request that could be published, got %v, %s", name, command, err, out)
			}
		}
	}
	if shown < 10 {
		t.Errorf("want the requests of three papers, got %d", shown)
	}
}

// TestShownFlagsExist: every flag of every command that a paper shows exists.
func TestShownFlagsExist(t *testing.T) {
	known := map[string]bool{}
	for _, f := range describeFlags(t) {
		known["-"+f.name] = true
	}
	flag := regexp.MustCompile(`\s(-[a-z]+)`)
	shown := 0
	for _, name := range []string{readme, operations, manPage} {
		for _, command := range shownCommands(t, name) {
			command = strings.TrimPrefix(strings.TrimPrefix(command, "sudo "), "./")
			if command, _, _ = strings.Cut(command, " | "); !strings.HasPrefix(command, "pcapdaemon -") {
				continue
			}
			shown++
			for _, match := range flag.FindAllStringSubmatch(command, -1) {
				if !known[match[1]] {
					t.Errorf("%s: %s: there is no %s", name, command, match[1])
				}
			}
		}
	}
	if shown < 15 {
		t.Errorf("want the commands of three papers, got %d", shown)
	}
}

// TestShownMerge: what the papers give for merging makes a file of which tcpdump reads all, whatever
// the snapshot lengths are.
func TestShownMerge(t *testing.T) {
	testbed.NeedTools(t, "mergecap", "tcpdump", "sh")
	command := regexp.MustCompile("`(mergecap [^`]* \\*\\.pcap)`").FindStringSubmatch(read(t, operations))
	if command == nil {
		t.Fatalf("%s shows no mergecap", operations)
	}
	dir := t.TempDir()
	for n, snap := range []uint32{96, 65535, 262144} {
		var file bytes.Buffer
		w := pcapgo.NewWriter(&file)
		err := w.WriteFileHeader(snap, layers.LinkTypeEthernet)
		for i := range 2 {
			info := gopacket.CaptureInfo{Timestamp: time.Unix(int64(i), 0), CaptureLength: 60, Length: 60}
			err = errors.Join(err, w.WritePacket(info, make([]byte, 60)))
		}
		if err = errors.Join(err, os.WriteFile(filepath.Join(dir, fmt.Sprint(n, ".pcap")), file.Bytes(), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", command[1]+" && tcpdump -nr all.pcap")
	cmd.Dir = dir
	if out, err := cmd.Output(); err != nil || strings.Count(string(out), "\n") != 6 {
		t.Errorf("%s: want six packets, got %v, %s", command[1], err, out)
	}
}
