"""Names, endings, interpreters and other names of languages, as tables.

A language is called as GitHub calls it, in lower case ("c#", "protocol buffer"), so that rows of The Stack and files
found on a disk agree. All languages of StarCoder (arXiv 2305.06161, table 1) are here. An ending that several languages
share stands with its most frequent one; `content` looks closer.
"""

from __future__ import annotations

from types import MappingProxyType

_ENDINGS = """
ada | adb ads ada
agda | agda
alloy | als
antlr | g4
apex | apex trigger
apl | apl
applescript | applescript scpt
arduino | ino
asciidoc | adoc asciidoc
assembly | asm a51 nasm s
astro | astro
augeas | aug
autohotkey | ahk
autoit | au3
awk | awk auk gawk mawk nawk
ballerina | bal
batchfile | bat cmd
bicep | bicep
bluespec | bsv
c | c h
c# | cs csx cake
c++ | cpp cc cxx c++ hpp hh hxx h++ inl ipp tcc tpp ixx cppm
cairo | cairo
clojure | clj cljs cljc edn
cmake | cmake
cobol | cbl cob cobol cpy
coffeescript | coffee cjsx iced
common lisp | lisp asd lsp
coq | coq
crystal | cr
css | css
cuda | cu cuh
cython | pyx pxd pxi
d | d di
dart | dart
dhall | dhall
dockerfile | dockerfile containerfile
eiffel | e
elixir | ex exs
elm | elm
emacs lisp | el
erlang | erl hrl escript yrl
f# | fs fsi fsx
factor | factor
fennel | fnl
fish | fish
forth | forth fth 4th
fortran | f f77 f90 f95 f03 f08 for ftn fpp
gdscript | gd
gherkin | feature
gleam | gleam
glsl | glsl vert frag geom comp tesc tese vsh fsh vshader fshader glslv shader fp frg
go | go
graphql | graphql gql graphqls
graphviz (dot) | dot gv
groovy | groovy gradle gvy gtpl
hack | hack
haskell | hs hsc
haxe | hx
hcl | tf hcl tfvars nomad
hlsl | hlsl hlsli cginc
html | html htm xhtml xht
html+erb | erb rhtml
idris | idr lidr
ini | ini
isabelle | thy
janet | janet
java | java
java server pages | jsp jspx
javascript | js jsx mjs cjs es6 jsm
json | json jsonc json5 geojson webmanifest
jsonnet | jsonnet libsonnet
julia | jl
jupyter notebook | ipynb
kotlin | kt kts ktm
lean | lean hlean
less | less
lex | l lex
literate agda | lagda
literate coffeescript | litcoffee
literate haskell | lhs
livescript | ls
llvm | ll
logtalk | lgt logtalk
lua | lua nse wlua rockspec
makefile | mk mak make
maple | mpl
markdown | md markdown mkd mkdn mdown mdx
mathematica | nb wl wls mathematica nbp mt
matlab | matlab
mercury | mercury
metal | metal
mojo | mojo
move | move
nim | nim nims nimble
nix | nix
objective-c | m
objective-c++ | mm
ocaml | ml mli mll mly ml4 eliom eliomi
odin | odin
opencl | cl opencl
pascal | pas dpr lpr dfm
perl | pl pm perl psgi t
php | php phtml phpt php3 php4 php5 ctp inc
plsql | pkb pks plb plsql
powershell | ps1 psm1 psd1
prolog | prolog yap pro plt
protocol buffer | proto
pug | pug jade
puppet | pp epp
purescript | purs
python | py pyi pyw pyde gyp gypi wsgi
qmake | pri
qml | qml qbs
r | r rsx
racket | rkt scrbl rktd rktl
raku | raku rakumod p6 pm6
reason | re rei
rescript | res resi
restructuredtext | rst rest
rmarkdown | rmd
roff | roff man
ruby | rb rake ru gemspec podspec jbuilder rabl thor builder rbw
rust | rs
sas | sas
sass | sass
scala | scala sbt sc
scheme | scm sld sps ss sls
scss | scss
shell | sh bash zsh bats ksh command tmux ebuild
smalltalk | st
smt | smt2 smt
solidity | sol
sparql | sparql rq
sql | sql ddl cql prc tab udf
stan | stan
standard ml | sml fun sig
starlark | bzl star
stata | do ado doh mata matah
stylus | styl
svelte | svelte
svg | svg
swift | swift
systemverilog | sv svh vh
tcl | tcl tm adp
tcsh | csh tcsh
tex | tex sty cls bib dtx ins bbx cbx lbx ltx mkii mkiv mkvi toc aux
text | txt
thrift | thrift
toml | toml
turtle | ttl
twig | twig
typescript | ts tsx mts cts
vala | vala vapi
verilog | v veo
vhdl | vhd vhdl vhf vhi vho vht vhw
vim script | vim
visual basic | vb vbs bas frm vba vbhtml frx
vue | vue
web ontology language | owl
webassembly | wat wast
wgsl | wgsl
xml | xml xsd xaml csproj vbproj fsproj vcxproj props targets plist wsdl xib storyboard rng resx nuspec
xslt | xsl xslt
yacc | y yacc yy
yaml | yaml yml
zig | zig
"""
_NAMES = """
starlark | BUILD BUCK WORKSPACE build.bazel workspace.bazel module.bazel tiltfile
clojure | build.boot
cmake | cmakelists.txt
dockerfile | dockerfile containerfile
emacs lisp | .emacs .spacemacs .gnus
go module | go.mod go.work
groovy | jenkinsfile
ini | .editorconfig .gitconfig
javascript | jakefile
json | .babelrc .eslintrc .jshintrc .prettierrc composer.lock flake.lock pipfile.lock
just | justfile
makefile | makefile gnumakefile kbuild bsdmakefile makefile.am makefile.in
meson | meson.build meson_options.txt
perl | cpanfile makefile.pl
python | sconstruct sconscript wscript snakefile
r | .rprofile
ruby | rakefile gemfile vagrantfile podfile fastfile appfile brewfile guardfile capfile berksfile thorfile dangerfile
ruby | puppetfile .irbrc .pryrc
shell | .bashrc .bash_profile .bash_aliases .bash_logout .profile .zshrc .zprofile .zshenv .zlogin .kshrc pkgbuild
shell | .envrc apkbuild bashrc zshrc
tcsh | .cshrc .tcshrc
toml | cargo.lock poetry.lock uv.lock pdm.lock pipfile
vim script | .vimrc vimrc .gvimrc .exrc _vimrc
yaml | .clang-format .clang-tidy .clangd
"""
_INTERPRETERS = """
awk | awk gawk mawk nawk
clojure | clojure bb
coffeescript | coffee
common lisp | sbcl clisp ecl
crystal | crystal
dart | dart
elixir | elixir
emacs lisp | emacs
erlang | escript
f# | fsharpi
fish | fish
groovy | groovy
haskell | runhaskell runghc stack
javascript | node nodejs bun
julia | julia
kotlin | kotlin
lua | lua luajit texlua
makefile | make gmake
nim | nim
nix | nix-shell
ocaml | ocaml ocamlrun ocamlscript
perl | perl cperl
php | php
powershell | pwsh powershell
prolog | swipl yap gprolog
python | python pypy ipython jython micropython uv
r | rscript r littler
racket | racket
raku | raku perl6
ruby | ruby jruby rake macruby rbx
scala | scala amm
scheme | guile chibi-scheme csi gosh scheme
shell | sh bash zsh ksh dash ash mksh rc bats busybox
standard ml | sml
swift | swift
tcl | tclsh wish expect jimsh
tcsh | csh tcsh
typescript | deno ts-node tsx
"""
_ALIASES = """
assembly | asm nasm gas asm68k
awk | gawk
batchfile | bat dosbatch batch
c# | csharp c-sharp cs
c++ | cpp cplusplus
common lisp | common-lisp commonlisp lisp
coq | rocq
dockerfile | docker
emacs lisp | emacs-lisp elisp emacslisp
f# | fsharp f-sharp
fortran | f90
go | golang
graphviz (dot) | dot graphviz
html | nxhtml web xhtml
java server pages | java-server-pages jsp
javascript | js js2 jsx ecmascript node javascript.jsx javascriptreact
literate agda | literate-agda
literate coffeescript | literate-coffeescript
literate haskell | literate-haskell lhaskell
makefile | make makefile-gmake gnumakefile automake
markdown | gfm pandoc
matlab | octave
objective-c | objc objectivec
objective-c++ | objcpp objective-cpp
ocaml | tuareg caml
perl | cperl
protocol buffer | protocol-buffer protobuf proto protocol-buffers
python | py python3 py3
restructuredtext | rst
rmarkdown | rmd
roff | nroff groff troff man
ruby | rb enh-ruby
shell | sh bash zsh ksh shell-script shellscript
standard ml | standard-ml sml
systemverilog | system-verilog
tcsh | csh
tex | latex plaintex plain-tex bibtex context
text | plaintext
typescript | tsx ts typescriptreact typescript.tsx
vim script | vim viml vimscript
visual basic | visual-basic vb visual-basic-.net vb.net vba vbscript basic
web ontology language | web-ontology-language owl
yaml | yml
"""


def _table(rows: str) -> MappingProxyType[str, str]:
    """Return what stands right of the bars -> the language left of it."""
    pairs = (row.partition("|") for row in rows.strip().splitlines())
    return MappingProxyType({word: name.strip() for name, _, words in pairs for word in words.split()})


BY_ENDING = _table(_ENDINGS)  # without the dot
BY_NAME = _table(_NAMES)
BY_INTERPRETER = _table(_INTERPRETERS)
LANGUAGES = frozenset(BY_ENDING.values()) | frozenset(BY_NAME.values())
ALIASES = _table(_ALIASES)
