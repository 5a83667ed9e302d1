// Package modules, built by shakedown in place of the upstream file of the same name by means of `go build -overlay`.
//
// Why: the upstream file takes an absent /proc/modules for a fatal error, so that the agent stops with "failed to
// retrieve loaded modules names" on a kernel that was built without support for loadable modules. On such a kernel the
// file cannot exist, nothing can be loaded, and whatever exists is built in.
//
// What differs: only that case. An absent /proc/modules counts as an empty list; any other error, and the parsing of a
// file that is there, are as before. A module that is then asked for by name is still handed to modprobe, and a
// failure of that is reported by its caller as before.
package modules

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// The fields of a line of /proc/modules: name, size, use count, users, state, address.
const procModulesFields = 6

var (
	procModules   = "/proc/modules"
	builtinTables = []string{
		"/lib/modules/%s/modules.builtin",
		"/usr/lib/modules/%s/modules.builtin",
		"/usr/lib/debug/lib/modules/%s/modules.builtin",
	}
)

func moduleLoader() string { return "modprobe" }

// listModules names the modules that are loaded and those that are built in.
func listModules() ([]string, error) {
	loaded, err := namesIn(procModules, parseLoadedModulesFile)
	if err != nil {
		return nil, fmt.Errorf("failed to retrieve loaded modules names: %w", err)
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return nil, fmt.Errorf("failed to retrieve builtin modules names: uname failed: %w", err)
	}
	release := string(bytes.TrimRight(uts.Release[:], "\x00"))
	for _, table := range builtinTables {
		builtin, err := namesIn(fmt.Sprintf(table, release), parseBuiltinModulesFile)
		if err != nil {
			return nil, fmt.Errorf("failed to retrieve builtin modules names: %w", err)
		}
		if builtin != nil {
			return append(loaded, builtin...), nil
		}
	}
	return loaded, nil
}

// namesIn parses the file at name; a file that does not exist gives no names and no error.
func namesIn(name string, parse func(io.Reader) ([]string, error)) ([]string, error) {
	file, err := os.Open(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("failed to open %s: %w", name, err)
	}
	defer file.Close()
	return parse(file)
}

func parseLoadedModulesFile(r io.Reader) ([]string, error) {
	names := []string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		fields := strings.Split(lines.Text(), " ")
		if len(fields) < procModulesFields {
			return nil, fmt.Errorf("invalid module line, %d fields instead of %d: %q", len(fields), procModulesFields, lines.Text())
		}
		names = append(names, fields[0])
	}
	return names, lines.Err()
}

func parseBuiltinModulesFile(r io.Reader) ([]string, error) {
	names := []string{}
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		file := path.Base(lines.Text())
		names = append(names, strings.TrimSuffix(file, path.Ext(file)))
	}
	return names, lines.Err()
}
