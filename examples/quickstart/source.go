package main

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/build"
	"go/doc"
	"go/parser"
	"go/printer"
	"go/token"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
)

// A file is a source file.
type file struct {
	path  string // as its key: src/fmt/print.go
	place string // in the file system
	mark  string // size and time of modification
}

// A declaration is one exported name and what is stored under it.
type declaration struct {
	name string // fmt.Println, net/http.Client.Do
	text string
}

// goSources returns the directory of Go's standard library.
func goSources() (string, error) {
	root := build.Default.GOROOT
	if out, err := exec.Command("go", "env", "GOROOT").Output(); err == nil {
		root = strings.TrimSpace(string(out))
	}
	sources := filepath.Join(root, "src")
	if _, err := os.Stat(filepath.Join(sources, "fmt")); err != nil {
		return "", fmt.Errorf("no Go source: %w", err)
	}
	return sources, nil
}

// findFiles returns all Go files below sources, but for the data of tests.
func findFiles(sources string) ([]file, error) {
	var files []file
	err := filepath.WalkDir(sources, func(place string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && entry.Name() == "testdata":
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(place, ".go"):
			return nil
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		inner, err := filepath.Rel(sources, place)
		if err != nil {
			return err
		}
		files = append(files, file{
			path:  sourcePrefix + filepath.ToSlash(inner),
			place: place,
			mark:  fmt.Sprintf("%d bytes, %d", info.Size(), info.ModTime().UnixNano()),
		})
		return nil
	})
	return files, err
}

// parse returns the exported declarations of f. Of a test, and of a file for
// another system, it returns none.
func parse(f file, source []byte) ([]declaration, error) {
	dir, name := filepath.Split(f.place)
	if match, err := build.Default.MatchFile(dir, name); err != nil || !match || strings.HasSuffix(name, "_test.go") {
		return nil, err
	}
	files := token.NewFileSet()
	syntax, err := parser.ParseFile(files, f.path, source, parser.ParseComments|parser.SkipObjectResolution)
	if err != nil {
		return nil, err
	}
	p := &fileParser{
		files:      files,
		importPath: path.Dir(strings.TrimPrefix(f.path, sourcePrefix)),
	}
	for _, d := range syntax.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			p.function(d)
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				p.spec(d, spec)
			}
		}
	}
	return p.found, nil
}

// A fileParser gathers the declarations of one file.
type fileParser struct {
	files      *token.FileSet
	importPath string
	found      []declaration
}

// add notes a declaration, unless its name is not exported.
func (p *fileParser) add(name *ast.Ident, kind, receiver, signature string, comments ...*ast.CommentGroup) {
	if !name.IsExported() {
		return
	}
	key := p.importPath + "." + receiver + name.Name
	text := signature
	for _, comment := range comments {
		if sentence := new(doc.Package).Synopsis(comment.Text()); sentence != "" {
			text += "\n" + sentence
			break
		}
	}
	at := p.files.Position(name.Pos())
	text += fmt.Sprintf("\n%s, %s:%d", kind, at.Filename, at.Line)
	p.found = append(p.found, declaration{key, text})
}

func (p *fileParser) function(d *ast.FuncDecl) {
	signature := p.print(&ast.FuncDecl{Recv: d.Recv, Name: d.Name, Type: d.Type})
	if d.Recv == nil {
		p.add(d.Name, "func", "", signature, d.Doc)
		return
	}
	if receiver := receiverType(d.Recv.List[0].Type); receiver.IsExported() {
		p.add(d.Name, "method", receiver.Name+".", signature, d.Doc)
	}
}

// receiverType returns T of the receivers T, *T and T[P].
func receiverType(e ast.Expr) *ast.Ident {
	for {
		switch x := e.(type) {
		case *ast.Ident:
			return x
		case *ast.StarExpr:
			e = x.X
		case *ast.ParenExpr:
			e = x.X
		case *ast.IndexExpr:
			e = x.X
		case *ast.IndexListExpr:
			e = x.X
		default:
			return ast.NewIdent("_")
		}
	}
}

func (p *fileParser) spec(d *ast.GenDecl, spec ast.Spec) {
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		p.add(spec.Name, "type", "", "type "+p.typeSignature(spec), spec.Doc, d.Doc)
	case *ast.ValueSpec:
		for i, name := range spec.Names {
			signature := d.Tok.String() + " " + name.Name
			if spec.Type != nil {
				signature += " " + p.print(spec.Type)
			}
			if i < len(spec.Values) && isShort(spec.Values[i]) {
				signature += " = " + p.print(spec.Values[i])
			}
			p.add(name, d.Tok.String(), "", signature, spec.Doc, d.Doc, spec.Comment)
		}
	}
}

// typeSignature leaves out what is inside a struct or an interface.
func (p *fileParser) typeSignature(spec *ast.TypeSpec) string {
	brief := &ast.TypeSpec{Name: spec.Name, TypeParams: spec.TypeParams, Assign: spec.Assign, Type: spec.Type}
	switch spec.Type.(type) {
	case *ast.StructType:
		brief.Type = ast.NewIdent("struct")
	case *ast.InterfaceType:
		brief.Type = ast.NewIdent("interface")
	}
	return p.print(brief)
}

// isShort reports whether a value can be shown: not a table or a function.
func isShort(e ast.Expr) bool {
	const most = 60
	return e.End()-e.Pos() <= most
}

// print returns the source of a node in one line.
func (p *fileParser) print(node any) string {
	var out bytes.Buffer
	if err := printer.Fprint(&out, p.files, node); err != nil {
		return err.Error()
	}
	return strings.Join(strings.Fields(out.String()), " ")
}
