#!/usr/bin/env nextflow
// Embed each section, merge and verify the stores, fine-tune, predict, report: every process is one or two `spam` commands.
//
//     nextflow run deploy/main.nf --manifest sections.csv --test C6 --out results
//
// The manifest is that of `spam embed --manifest`, with a name for every section; `--test` names the sections to predict, and all
// others are trained on. `--embed` and `--finetune` are further options of these commands.

nextflow.enable.dsl = 2

params.manifest = null
params.test = null
params.out = 'results'
params.embed = ''
params.finetune = ''

process EMBED {
    tag "${section}"
    cpus 4

    input:
    tuple val(section), val(files)

    output:
    path "${section}.zarr"

    script:
    """
    spam embed ${files} --store ${section}.zarr ${params.embed}
    """
}

process MERGE {
    publishDir params.out, mode: 'copy'

    input:
    path stores

    output:
    path 'cohort.zarr'

    script:
    """
    spam store merge cohort.zarr ${stores}
    spam store verify cohort.zarr
    """
}

process FINETUNE {
    cpus 8
    publishDir params.out, mode: 'copy'

    input:
    path store
    val train

    output:
    path 'finetune'

    script:
    """
    spam finetune --store ${store} --sections ${train} --save-dir finetune ${params.finetune}
    """
}

process PREDICT {
    tag "${section}"
    publishDir params.out, mode: 'copy'

    input:
    path store
    path finetune
    val section

    output:
    path "${section}"

    script:
    """
    spam predict --store ${store} --section ${section} --ckpt ${finetune}/best.safetensors --out-dir ${section}
    spam report ${section}
    """
}

// A row of the manifest as options: its columns have their names, and paths start from its folder.
def filesOf(row) {
    def folder = file(params.manifest).toAbsolutePath().parent
    row.findAll { name, value -> value }.collect { name, value ->
        def given = name in ['h5ad', 'csv', 'root', 'regions'] ? folder.resolve(value) : value
        "--${name} '${given}'"
    }.join(' ')
}

workflow {
    rows = Channel.fromPath(params.manifest, checkIfExists: true).splitCsv(header: true)
    test = params.test.toString().tokenize(',')
    EMBED(rows.map { row -> tuple(row.section, filesOf(row)) })
    MERGE(EMBED.out.collect())
    train = rows.map { row -> row.section }.filter { name -> !(name in test) }.toList().map { names -> names.join(',') }
    FINETUNE(MERGE.out, train)
    PREDICT(MERGE.out, FINETUNE.out, Channel.fromList(test))
}
