"""The words of the events' declarations, and of the tables that are made of them, in Chinese."""

from __future__ import annotations

CHINESE = {
    # ------------------------------------------------------------------------------------------------- the tables
    "event": "事件",
    "one per": "每条对应",
    "written by": "由谁写入",
    "every run": "所有运行",
    "field": "字段",
    "type": "类型",
    "meaning": "含义",
    "; ": "；",
    ", ": "、",
    " or ": " 或 ",
    "integer": "整数",
    "integer or null": "整数或 null",
    "number": "数值",
    "number or null": "数值或 null",
    "text": "文本",
    "text or null": "文本或 null",
    "text, or missing": "文本，可缺省",
    "number, or missing": "数值，可缺省",
    "boolean": "布尔值",
    "boolean or null": "布尔值或 null",
    "boolean, or missing": "布尔值，可缺省",
    "object": "对象",
    "list of integers": "整数列表",
    "list of numbers": "数值列表",
    "list of numbers and nulls": "数值或 null 的列表",
    "list of numbers and nulls, or missing": "数值或 null 的列表，可缺省",
    "list of objects": "对象列表",
    "list of texts": "文本列表",
    "list of texts, or missing": "文本列表，可缺省",
    "object, or missing": "对象，可缺省",
    "integer, or missing": "整数，可缺省",
    # -------------------------------------------------------------------------------------------- one per, and when
    "run with `--task`, of up to 1,000 images": "一次使用 `--task` 的运行中至多 1,000 张图片",
    "run with `--task`": "一次使用 `--task` 的运行",
    "run": "一次运行",
    "run, first of all": "一次运行，最先写入",
    "run, last of all": "一次运行，最后写入",
    "run on an NPU, where operators fell back to the CPU": "一次 NPU 运行，仅在有算子回退到 CPU 时",
    "run whose output is not finite, where weights are not either": "一次运行，其输出与权重都含 NaN 或无穷大时",
    "run with `--candidate`": "一次使用 `--candidate` 的运行",
    "run with `--reference`": "一次使用 `--reference` 的运行",
    "run with a CPU baseline": "一次带 CPU 基线的运行",
    "run, where operations can be counted (earlier logs: one before the sweep, one after it)": (
        "一次运行，仅在可统计运算量时（旧日志：各 batch size 测量之前与之后各一条）"
    ),
    "image": "一张图片",
    "image that was left out": "一张被跳过的图片",
    "image with several frames, of which the first is taken": "一张多帧图片，只取第一帧",
    "image, output and reference, of the first 1,000 images": "前 1,000 张图片中的一张、一个输出与一个参考",
    "output and reference, of up to 1,000 images behind the first 1,000": (
        "一个输出与一个参考，第 1,000 张之后的至多 1,000 张图片"
    ),
    "output and reference": "一个输出与一个参考",
    "output and way": "一个输出与一种方式",
    "output, with `--golden`": "一个输出，使用 `--golden` 时",
    "hypothesis, after `--explain` or a FAIL": "一个假设，使用 `--explain` 或结果为 FAIL 时",
    "block of the main chain, after `--explain` or a FAIL": "主干中的一个 block，使用 `--explain` 或结果为 FAIL 时",
    "batch size and mode": "一个 batch size 与一种模式",
    "batch size, mode and pass": "一个 batch size、一种模式的一轮测量",
    "batch size and mode, under `torchrun`": "一个 batch size 与一种模式，在 `torchrun` 下",
    "run with `--batch-sizes auto`": "使用 `--batch-sizes auto` 的运行",
    "Batch sizes from 1, each twice the one before, eager. The last failed, or reached less than 5 % more images a "
    "second than the best before it, each by its best window. Those that are ok were measured.": (
        "从 1 开始逐次翻倍的 batch size（eager）。最后一个失败，或其每秒图片数比此前最好的多不到 5 %（均取最快窗口）。"
        "状态为 ok 的都已测量。"
    ),
    "in the order in which they were tried": "按尝试的顺序",
    "`eager`, or `compile:` and a backend of `torch.compile`; earlier logs have one mode": (
        "`eager`，或 `compile:` 加 `torch.compile` 的后端名；早期日志只有一种模式"
    ),
    "of `torch.compile`, to measure beside eager; none named: the device's own": (
        "除 eager 外要测量的 `torch.compile` 后端；为空表示设备自身的后端"
    ),
    "further batch sizes are those of the `search`": "其余 batch size 取自 `search`",
    "of a perf run": "性能运行",
    "of a perf run, where operations can be counted": "可统计运算量的性能运行",
    "on an NPU": "在 NPU 上",
    "at the start": "在开始时",
    "run and phase": "一次运行的一个阶段",
    "of a `hidden_state`": "输出为 `hidden_state` 时",
    "where it is ok": "测量成功时",
    # ---------------------------------------------------------------------------------------- the run and its machine
    "the log's version": "日志格式的版本",
    "by its file name": "文件名",
    "its arguments, paths by their last part": "命令行参数，路径只记最后一段",
    "ISO 8601": "ISO 8601",
    "of the scripts and of `common/`": "脚本与 `common/` 的代码",
    "commit, `+dirty` after local changes": "提交号，有本地修改时带 `+dirty`",
    "to measure": "待测量的 batch size",
    "processes that run together": "同时运行的进程数",
    "how many precede it": "此前的记录数",
    "SHA-256 of their JSON texts, each followed by a newline": "此前各记录 JSON 文本（各加一个换行符）的 SHA-256",
    "`complete` or `error`": "`complete` 或 `error`",
    "what ended the run": "使运行终止的错误",
    "version": "版本",
    "logical CPUs of the machine": "本机的逻辑 CPU 数",
    "CPUs that the container may use at once": "容器可同时使用的 CPU 数",
    "the variable that restricts the devices, `NAME=VALUE`": "限定可见设备的环境变量，形如 `NAME=VALUE`",
    "of the outputs, such as `npu:0`": "输出所在的设备，例如 `npu:0`",
    "of the weights": "权重的",
    "the device is a stand-in for tests": "该设备是测试用的模拟设备",
    "visible devices of this kind; 0 of the CPU": "可见的同类设备数；CPU 为 0",
    "that PyTorch computes with": "PyTorch 计算所用的线程数",
    "the switches of `torch_npu`, as they were in force": "`torch_npu` 的开关，以实际生效者为准",
    "whether convolutions may round to HF32": "卷积是否可舍入到 HF32",
    "whether matrix products may": "矩阵乘是否可舍入到 HF32",
    "measured: an operator without a kernel raises, and does not run on the CPU": (
        "实测：没有 kernel 的算子直接报错，不回退到 CPU"
    ),
    "`torch.npu.matmul.cube_math_type`; overrides `allow_hf32`": (
        "`torch.npu.matmul.cube_math_type`，优先于 `allow_hf32`"
    ),
    "`TORCH_NPU_USE_COMPATIBLE_IMPL`, the user's": "用户设置的 `TORCH_NPU_USE_COMPATIBLE_IMPL`",
    "operators are compiled when they are first called": "算子在首次调用时编译",
    "What the device was found to compute. Of a mantissa float32 keeps 23 bits, HF32 11, TF32 and float16 10, "
    "bfloat16 7.": "设备实际的计算精度。尾数位数：float32 为 23，HF32 为 11，TF32 与 float16 为 10，bfloat16 为 7。",
    'what GELU computes with `approximate="none"`': '`approximate="none"` 时 GELU 实际的计算方式',
    'the same with `approximate="tanh"`': '`approximate="tanh"` 时 GELU 实际的计算方式',
    "GELU is not the device's native one": "GELU 不是设备自带的算子",
    "the same of the CPU in float32": "CPU 以 float32 计算时的同样探测结果",
    "that ran on the CPU": "在 CPU 上执行的算子",
    "The state of the machine around the figures: what else it was busy with.": (
        "测量前后机器的状态：是否还在忙于其他任务。"
    ),
    "before the weights are loaded, and after the last figure": "加载权重之前，以及最后一项测量之后",
    "MiB of the device's memory in use that are no tensors of this process; null on the CPU": (
        "已占用的设备内存中不属于本进程张量的部分，单位 MiB；CPU 上为 null"
    ),
    "of the machine, over a minute: what ran or waited for a CPU": "整机一分钟内的平均负载：正在运行或等待 CPU 的进程",
    "what of it is this process, by its CPU time and age": "其中本进程的部分，由其 CPU 时间与已运行时间得出",
    "of the environment, those that change how long calls take, as they were set": (
        "影响调用耗时的环境变量，按用户的设置"
    ),
    "that `LD_PRELOAD` puts in the place of malloc, by its file name": (
        "`LD_PRELOAD` 用以替代 malloc 的分配器，只记文件名"
    ),
    "of the first CPU's frequency": "第一个 CPU 的调频策略",
    "that the governor steers": "该策略所用的调频驱动",
    "torch_npu's, as it was in force; null where it does not say": (
        "torch_npu 的开关，以实际生效者为准；无法得知时为 null"
    ),
    # -------------------------------------------------------------------------------------------------- the encoder
    "as it was asked for, a folder by its last part": "用户指定的模型，文件夹只记最后一段",
    "the library's name of it": "该库中的名称",
    "how many": "数量",
    "its embedding is the logits of named classes": "其 embedding 是有名称的类别的 logits",
    "the hub's id, the path's last part, `random` or `demo`": "模型库的 id、路径的最后一段、`random` 或 `demo`",
    "of the file, or of the shards' hashes in the index's order": "权重文件的哈希，或各分片哈希按索引顺序的哈希",
    "of the encoder, that the weights lack": "编码器需要而权重中缺少的",
    "of the weights, that the encoder lacks": "权重中有而编码器没有的",
    "of another part than the encoder, such as a task head": "属于编码器以外部分的，例如任务头",
    "how images become pixel values": "图片如何变为像素值",
    "what was asked for": "用户的设定",
    "of the kinds that are probed: `conv`, `matmul`, `attention`, `gelu`, `gelu_tanh`": (
        "模型用到的、属于探测范围的算子：`conv`、`matmul`、`attention`、`gelu`、`gelu_tanh`"
    ),
    "what of the model's the embedding is": "embedding 是模型的哪一种输出",
    "that `model` is an id of": "`model` 这一 id 所在的模型库",
    "on that hub, where one was named": "该模型库上的版本，仅当指定时",
    "pixels a side, where `--input-size` named them": "边长（像素），仅当以 `--input-size` 指定时",
    "its sizes, those that its library names: `patch_size`, `layers`, `hidden_size`, `intermediate_size`, "
    "`attention_heads`": (
        "模型的尺寸，以模型库给出的为准：`patch_size`、`layers`、`hidden_size`、`intermediate_size`、`attention_heads`"
    ),
    "of an embedding that is finite": "`embedding` 且为有限值时",
    "the five largest elements of `r`": "`r` 中最大的五个元素",
    "the five largest elements of `y`": "`y` 中最大的五个元素",
    "what was done to the weights before they fitted": "为使权重与模型相符所做的改动",
    "of an accuracy run: the precisions that it compares with": "精度运行：参考所用的精度",
    "of a perf run of earlier versions: all of it by `torch.compile`": (
        "早期版本的性能运行：是否全部经 `torch.compile` 编译"
    ),
    "1e9 floating-point operations, a multiplication and an addition being two": "1e9 次浮点运算，一次乘加计为两次",
    "of `matmul`, `conv`, `attention` and `other`": "按 `matmul`、`conv`、`attention` 与 `other` 分列",
    "with a NaN or infinity": "含 NaN 或无穷大的权重",
    # --------------------------------------------------------------------------------------------------- the images
    "NaN and infinite outputs": "输出中 NaN 与无穷大的个数",
    "the largest outputs": "最大的若干个输出",
    "the class, where the model names it": "类别名，仅当模型提供时",
    # ----------------------------------------------------------------------------------------------------- accuracy
    "How far the device's output `y` is from the reference `r`. A metric is null where NaN or infinities leave "
    "no number.": "设备输出 `y` 与参考 `r` 之间的误差。因 NaN 或无穷大而无法得出的指标为 null。",
    "of the output": "该输出的",
    "`[1, D]` or `[1, T, C]`": "`[1, D]` 或 `[1, T, C]`",
    "`mean |y - r| / mean |r|`, a fraction": "`mean |y - r| / mean |r|`，为比值",
    "`||y - r|| / ||r||`, a fraction": "`||y - r|| / ||r||`，为比值",
    "`relative_l2` squared": "`relative_l2` 的平方",
    "keeps the digits that the cosine loses": "保留余弦相似度会丢失的有效位",
    "`max r - r[argmax y]`, as a fraction of the range of `r`": "`max r - r[argmax y]` 与 `r` 值域之比",
    "dB: `-10 log10 nmse`; null without any error": "单位 dB：`-10 log10 nmse`；毫无误差时为 null",
    "fraction of the five largest elements that are the same": "最大的五个元素中相同者所占的比例",
    "What `sample` is of one image, in lists that have a place for each. The other metrics follow from these.": (
        "与单张图片的 `sample` 相同，以列表形式给出，每张图片占一个位置。其余指标由这些推出。"
    ),
    "the place of its first image among all that are compared, from 0": (
        "其第一张图片在全部被比较图片中的位置，从 0 开始"
    ),
    "of each image the first 16 digits of its `image_sha256`, without a gap": (
        "每张图片 `image_sha256` 的前 16 位，依次相连"
    ),
    "the first two on the CPU, the last in a file of `inference.py`": (
        "前两者在 CPU 上计算，最后一个来自 `inference.py` 的文件"
    ),
    "as in `sample`, of each image": "每张图片的值，含义同 `sample`",
    "`nonfinite` of each image, where one is not 0": "每张图片的 `nonfinite`，有不为 0 的才写入",
    "with the largest error, of each image": "每张图片中误差最大的 token",
    "of each image": "每张图片的",
    "Its `env`, `model` and `numerics` are those of the run that made the file.": (
        "其 `env`、`model`、`numerics` 即生成该文件的那次运行的记录。"
    ),
    "NaN and infinite elements of both": "两者中 NaN 与无穷大元素的总数",
    "of an embedding: what a perf run's is recognised by": "embedding 的指纹：据此与性能运行的 embedding 比对",
    "with the largest error": "误差最大的 token",
    "Each metric is its own worst of all samples: an error's largest, a similarity's smallest, and null before both.": (
        "每个指标各取所有样本中的最差值：误差取最大，相似度取最小，null 比两者都差。"
    ),
    "of all samples": "所有样本之和",
    "what rounding to a 16-bit dtype is expected to cost": "舍入到 16 位 dtype 的预期误差",
    "the bound that was applied, a fraction": "实际采用的上限，为比值",
    "The run's first image through the device once more: its output `y'` beside what it was at first, `y`.": (
        "本次运行的第一张图片再次送入设备：其输出 `y'` 与首次输出 `y` 对比。"
    ),
    "by itself, or in another place of another batch": "单独一张，或位于另一个 batch 的另一位置",
    "of that call": "该次调用的",
    "in the batch, from 0": "在 batch 中的位置，从 0 开始",
    "of the call that gave `y`": "得到 `y` 的那次调用的 batch size",
    "`||y' - y|| / ||y||`, a fraction": "`||y' - y|| / ||y||`，为比值",
    "to the last bit": "是否逐位相同",
    "of the CPU's float32 against its float64": "CPU 上 float32 相对于 float64 的误差",
    "by its name": "文件名",
    "of a file of `inference.py`": "参考为 `inference.py` 的文件时",
    "that computed it": "计算该参考的模型",
    "`float32`, `float64`, or `features` alone": "`float32`、`float64`，或单独的 `features`",
    "how images became pixel values": "当时图片如何变为像素值",
    "of Python, the platform and the packages": "当时的 Python、平台与各软件包",
    "How well a cause explains the device's error `y - r`, when its emulation gives `y_k`. A figure is null where NaN "
    "or infinities leave no number.": (
        "某个原因能在多大程度上解释设备的误差 `y - r`，`y_k` 为该原因的仿真输出。因 NaN 或无穷大而无法得出时为 null。"
    ),
    "causes joined by `+`, or `unexplained`": "以 `+` 连接的原因，或 `unexplained`",
    "`||y - y_k||` as relative L2, the root mean square of both outputs'": (
        "`||y - y_k||` 的相对 L2，取两个输出的均方根"
    ),
    "the answer; one a run at most": "是否为归因结论；每次运行至多一条",
    "of the two errors": "两个误差之间的相关系数",
    "the least that `y_k` explains of the same emulation, disturbed; null where that was not tried": (
        "加扰后重做同一仿真，`y_k` 至少能解释的比例；未尝试时为 null"
    ),
    "Errors are relative L2 of the CPU's output; null where one is not finite.": (
        "误差为相对于 CPU 输出的相对 L2；非有限值为 null。"
    ),
    "from 0": "从 0 开始",
    "of the module": "模块名",
    "the error of the device's own output, all that came before included": "设备自身输出的误差，含之前各 block 的误差",
    "that of the device's block alone, given the CPU's input of this block": (
        "以 CPU 上该 block 的输入单独计算时，设备上该 block 的误差"
    ),
    "the error arises here; one a run at most": "误差产生于此；每次运行至多一条",
    # --------------------------------------------------------------------------------------------------------- the task
    "What the reference and the device make of them, in the order of the samples. A prediction is the index of a class "
    "(`classes` and `knn`) or the place of an image from 0 (`nearest`); -1 is none, of an embedding that is not "
    "finite.": (
        "参考与设备对这些图片的预测，顺序与样本相同。预测是类别的索引（`classes` 与 `knn`）"
        "或图片的序号，从 0 开始（`nearest`）；-1 表示没有预测，即 embedding 含 NaN 或无穷大。"
    ),
    "the place of the first image, from 0": "第一张图片的序号，从 0 开始",
    "the index of each image's class": "每张图片所属类别的索引",
    "predicted from the reference's embeddings": "由参考的 embedding 得出的预测",
    "predicted from the device's": "由设备的 embedding 得出的预测",
    "relative L2 error of the embeddings that it takes to change the reference's prediction; of one that changed, to "
    "the device's": "使参考的预测改变所需的 embedding 相对 L2 误差；已改变的，则为变成设备的预测所需的误差",
    "of `nearest`: of the `neighbours`, how many are the same": "`nearest`：`neighbours` 个近邻中相同的个数",
    "those whose prediction is not the same, by their names, in order": "预测不同的图片的名称，按顺序",
    "What the device's error does to the task that an encoder is for.": "设备的误差对编码器所承担的任务有何影响。",
    "the model's own classes, a vote of nearest neighbours, or these alone": "模型自身的类别、近邻投票，或仅近邻",
    "where they are from: `folders`, or a file by its name": "标签的来源：`folders`，或文件名",
    "the index of each label": "每个标签的索引",
    "that vote or are compared; null of `classes`": "参与投票或比较的近邻数；`classes` 时为 null",
    "of their votes, `exp(cosine / temperature)`": "投票权重 `exp(cosine / temperature)` 的温度",
    "relative L2: the margin up to which a change is a tie": "相对 L2：裕度不超过此值的改变为平局",
    "share of the images whose label the reference predicts; null without labels": (
        "参考预测正确的比例；没有标签时为 null"
    ),
    "share whose label the device predicts; null without labels": "设备预测正确的比例；没有标签时为 null",
    "the first less the second": "前者减去后者",
    "labels that the reference predicts and the device does not, without ties": (
        "参考预测正确而设备不正确的标签数，不含平局"
    ),
    "predictions that are not the same": "不相同的预测数",
    "of these, whose margin is at most `rounding`": "其中裕度不超过 `rounding` 的个数",
    "upper bound of the share that changes, with 95 % confidence (Clopper-Pearson)": (
        "预测改变比例的上限，置信度 95%（Clopper-Pearson）"
    ),
    "share of the `neighbours` that are the same; null but of `nearest`": (
        "`neighbours` 个近邻中相同的比例；除 `nearest` 外为 null"
    ),
    "the bound of `accuracy_drop` that was applied, a fraction": "所采用的 `accuracy_drop` 上限，为比值",
    "null where nothing is gated": "不作判定时为 null",
    # -------------------------------------------------------------------------------------------------- performance
    "building the encoder and reading its weights": "构建编码器并读取权重",
    "copying it to the device": "复制到设备",
    "the first of all, of one image, eager: what a user waits for once": (
        "全部调用中的第一次：单张图像、eager 模式，用户只需等待一次"
    ),
    "how many of the samples are of each round": "各轮各有多少个样本",
    "the sweep": "相对于各 batch size 的测量",
    "`1 - slowest / fastest` of the rounds, each by its own windows; above 0.2 it is unsteady": (
        "各轮（只用本轮的窗口）的 `1 - slowest / fastest`；大于 0.2 即不稳定"
    ),
    "1e12 operations a second over the shapes, each at its best window": "各形状取最快窗口时，每秒 1e12 次运算",
    "the encoder's main matrix products": "编码器的主要矩阵乘",
    "1e9 operations of this shape in an image": "每张图片中该形状的运算量，单位 1e9 次",
    "rows, inner, columns: `[rows, inner] x [inner, columns]`": "行、内维、列：`[rows, inner] x [inner, columns]`",
    "of the encoder or the product in one sample, queued back to back": (
        "每个样本中连续下发的编码器（或矩阵乘）调用次数"
    ),
    "each the time of so many calls, synchronised on both sides": "每项为上述次数调用的总时间，前后均同步设备",
    "of a failure": "失败的原因",
    "of the outputs": "输出的",
    "at this batch size, as it is timed: with `--compile` its compilation": (
        "该 batch size 按计时方式的首次调用；使用 `--compile` 时含编译"
    ),
    "untimed calls": "不计时的调用次数",
    "the last: of each call of the latency pass the time until it returned, on devices with a queue": (
        "最后一项：延迟测量中每次调用返回前的用时，仅限有队列的设备"
    ),
    "median until a call returned, from an idle device; null on a CPU": (
        "设备空闲时一次调用返回前用时的中位数；CPU 上为 null"
    ),
    "what the latency is spent on: the host where issuing takes 90 % of it or more, the device below 50 %": (
        "时延花在何处：下发用时占 90 % 及以上为主机，低于 50 % 为设备"
    ),
    "its last two windows agreed within 5 %": "最后两个窗口相差不超过 5 %",
    "samples of the latency pass": "延迟测量的样本数",
    "null below 5 samples": "不足 5 个样本时为 null",
    "null below 29 samples": "不足 29 个样本时为 null",
    "null below 59 samples": "不足 59 个样本时为 null",
    "null below 299 samples": "不足 299 个样本时为 null",
    "interquartile range; null below 5 samples": "四分位距；不足 5 个样本时为 null",
    "that range is at most 10 % of the median": "四分位距不超过中位数的 10 %",
    "1 - e'^2 / e^2, e' the device's error without the cause": ("1 - e'^2 / e^2，其中 e' 为在设备上去除该原因后的误差"),
    "that error e', as relative L2": "上述误差 e'，以相对 L2 表示",
    "run whose folders hold what was not read": "文件夹中含有未读取内容的运行",
    "image with more than 8 bits a value, which was scaled to 8": "每个值超过 8 位、已缩放到 8 位的图像",
    "run with images that are not opaque, whose alpha was dropped": "含有非不透明图像（已丢弃 alpha 通道）的运行",
    "in its folders, that are no images by their names": "其文件夹中按文件名判断不是图像的文件数",
    "of these by extension, the most frequent": "其中最常见的扩展名及数量",
    "not entered": "未进入的文件夹",
    "to a folder that they are in, not entered": "指向自身所在文件夹、未进入的链接",
    "that can't be searched, and why": "无法搜索的文件夹及原因",
    "Pillow's": "Pillow 的模式名",
    "the value that became 0": "映射为 0 的值",
    "the value that became 255": "映射为 255 的值",
    "list of integers, or missing": "整数列表，可缺省",
    "`gemm_tflops`; of one before and one after the sweep the larger": "`gemm_tflops`；扫描前后各测一次时取较大者",
    "a fraction: of the throughput pass": "比值：吞吐测量",
    "images a second": "每秒图片数",
    "images a second with decoding, preprocessing and the copies": "含解码、预处理与数据拷贝的每秒图片数",
    "of the throughput pass; null without a limit": "吞吐测量达到的值；没有上限时为 null",
    "MiB that tensors took at most; null on the CPU": "张量占用的峰值，单位 MiB；CPU 上为 null",
    "the timed outputs' worst error against those of the images alone": "计时输出相对于逐张计算输出的最大误差",
    "NaN and infinite elements of the timed outputs": "计时输出中 NaN 与无穷大元素的个数",
    "the first": "第一张",
    "of its embedding": "其 embedding 的指纹",
    "kind of module and batch size, after `--explain`": "一类模块与一个 batch size，使用 `--explain` 时",
    "Its modules alone, each on the input that it got in a forward, without the modules of other kinds in them. "
    "`forward` is the whole encoder, eager, timed in the same rounds.": (
        "该类模块单独运行，各自使用其在前向中得到的输入，不含其中其他类别的模块。"
        "`forward` 是整个编码器（eager），在同样的轮次中计时。"
    ),
    "`patch_embed`, `stem`, `attention`, `mlp`, `norm`, `activation`, `convolution`, `projection`, `head`, "
    "`stage 0` and so on, or `forward`": (
        "`patch_embed`、`stem`、`attention`、`mlp`、`norm`、`activation`、`convolution`、`projection`、`head`、"
        "`stage 0` 等，或 `forward`"
    ),
    "of its modules that a forward runs": "一次前向运行的该类模块数",
    "of these modules": "这些模块的类名",
    "in a forward: the sum over its parts of `count` times a call, each by its median window": (
        "一次前向中的耗时：各 part 的 `count` 乘以单次调用时间之和，单次调用取窗口的中位数"
    ),
    "a fraction of the time of `forward`": "占 `forward` 时间的比例",
    "of `forward`: what all shares leave of 1, the overhead between the kinds; below 0 they overlap": (
        "仅 `forward` 有：1 减去所有比例，即各类模块之间的开销；小于 0 表示它们有重叠"
    ),
    "1e9 operations of matrix products in a forward; null without any": (
        "一次前向中矩阵乘的运算量，单位 1e9；没有时为 null"
    ),
    "a fraction: these operations in that time; null without a limit": (
        "比值：以该时间完成这些运算；没有上限时为 null"
    ),
    "what was timed": "被计时的部分",
    "the one that is timed": "被计时的模块",
    "of such modules that a forward runs": "一次前向运行的此类模块数",
    "images a second of each rank": "各 rank 的每秒图片数",
    "their sum": "各 rank 之和",
    "of the first rank while the others waited": "其余 rank 等待时第一个 rank 的吞吐",
    "the total as a fraction of so many ranks alone": "总吞吐与同样多个 rank 单独运行之和的比值",
    "what the first rank measured then": "第一个 rank 此时的测量",
    "what each rank measured": "各 rank 的测量",
    "the machine, from 0": "所在机器，从 0 开始",
    "as in `perf`": "同 `perf`",
    "`baseline_latency_ms` over the device's `avg_latency_ms` at batch size 1": (
        "`baseline_latency_ms` 与设备在 batch size 为 1 时的 `avg_latency_ms` 之比"
    ),
    "mean of the CPU in float32 at batch size 1": "CPU 以 float32、batch size 为 1 计算的平均值",
    "of the CPU": "CPU 的",
    "each the time of a call": "每项为一次调用的时间",
}
